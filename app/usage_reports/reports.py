"""Domain types of usage reports: query, cursor position and result rows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import groupby
from operator import attrgetter
from typing import Any
from zoneinfo import ZoneInfo

from msgspec import Struct

from app.usage.filters import Dimension, DimensionValue, UsageFilters
from app.usage_events.records import TokenUsage

# The beginning of a digest that identifies a group within one report.
PREFIX_BYTES = 8


class BucketWidth(StrEnum):
    """The length of a bucket, by the clock and calendar of a time zone. `all` is a single bucket."""

    HOUR = "1h"
    DAY = "1d"
    MONTH = "1mo"
    ALL = "all"


class Measure(StrEnum):
    """What results can be ordered by."""

    REQUESTS = "requests"
    UNCACHED_INPUT_TOKENS = "uncached_input_tokens"
    CACHE_READ_INPUT_TOKENS = "cache_read_input_tokens"
    OUTPUT_TOKENS = "output_tokens"
    WEB_SEARCH_REQUESTS = "web_search_requests"
    ESTIMATED_COST = "estimated_cost"
    BILLED_COST = "billed_cost"
    UNPRICED_REQUESTS = "unpriced_requests"


_VALUE_OF: Mapping[Measure, Callable[[Any], Any]] = {
    measure: attrgetter(path)
    for measure, path in (
        (Measure.REQUESTS, "requests"),
        (Measure.UNCACHED_INPUT_TOKENS, "tokens.uncached_input"),
        (Measure.CACHE_READ_INPUT_TOKENS, "tokens.cache_read"),
        (Measure.OUTPUT_TOKENS, "tokens.output"),
        (Measure.WEB_SEARCH_REQUESTS, "tokens.web_search_requests"),
        (Measure.ESTIMATED_COST, "cost"),
        (Measure.BILLED_COST, "billed"),
        (Measure.UNPRICED_REQUESTS, "unpriced_requests"),
    )
}


@dataclass(frozen=True, slots=True)
class Ranking:
    """The order of the results within a bucket. With `top`, all groups but the first ones become one.

    The first groups are those of the whole report, so that they are the same ones in every bucket.
    """

    measure: Measure = Measure.ESTIMATED_COST
    is_descending: bool = True
    top: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportQuery:
    """A report query. `group_by` is in the order of `Dimension`. `ending_at` None means no end.

    Without a ranking, results are ordered by their dimensions. `include_empty` includes buckets without results.
    """

    starting_at: datetime
    ending_at: datetime | None
    bucket_width: BucketWidth
    zone: ZoneInfo
    group_by: tuple[Dimension, ...]
    filters: UsageFilters
    ranking: Ranking | None = None
    include_empty: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """The last row of a page: the start of its bucket and the digest of its dimensions.

    `ending_at` is the same on all pages, so that the end of a report without an end does not move between pages.
    With a ranking, `value` is the row's measure, and `named` identifies the groups that are not part of the rest.
    """

    starting_at: datetime
    ending_at: datetime
    digest: bytes
    value: int = 0
    is_other: bool = False
    named: tuple[bytes, ...] = ()


class ReportRow(Struct, frozen=True, kw_only=True):
    """The totals of one group in one bucket. Costs are in pico-USD. `cost` excludes requests without a known price.

    `is_other`: the row is the total of all groups that are not among the first ones.
    """

    starting_at: datetime
    ending_at: datetime
    dimensions: Mapping[Dimension, DimensionValue | None]
    digest: bytes
    requests: int
    tokens: TokenUsage
    cost: int
    billed: int
    unpriced_requests: int
    is_other: bool = False

    def value(self, measure: Measure) -> int:
        """Return the value by which results are ordered."""
        found: int = _VALUE_OF[measure](self)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The rows in order. They include every event that was accepted before `as_of`.

    `buckets` are those that the page shows even without results. `named` are the first groups of the whole report.
    """

    rows: Sequence[ReportRow]
    ending_at: datetime
    as_of: datetime
    buckets: Sequence[tuple[datetime, datetime]] = ()
    named: tuple[bytes, ...] = ()

    def by_bucket(self, at_most: int) -> Iterator[tuple[tuple[datetime, datetime], Sequence[ReportRow]]]:
        """Yield the buckets of a page of at most that many rows, each with its rows."""
        rows, is_last = self.rows[:at_most], len(self.rows) <= at_most
        empty = iter(self.buckets)
        next_empty = next(empty, None)
        for bucket, found in groupby(rows, lambda row: (row.starting_at, row.ending_at)):
            while next_empty is not None and next_empty <= bucket:
                if next_empty < bucket:
                    yield next_empty, ()
                next_empty = next(empty, None)
            yield bucket, list(found)
        while is_last and next_empty is not None:
            yield next_empty, ()
            next_empty = next(empty, None)

    def position(self, row: ReportRow, ranking: Ranking | None) -> Position:
        """Return the position of the page that follows this row."""
        return Position(
            starting_at=row.starting_at,
            ending_at=self.ending_at,
            digest=row.digest,
            value=0 if ranking is None else row.value(ranking.measure),
            is_other=row.is_other,
            named=self.named,
        )
