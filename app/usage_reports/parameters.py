"""Query parameters and page cursor of the usage report."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import Depends, Query

from app.api.dependencies import only_parameters
from app.api.pagination import decode_cursor, encode_cursor
from app.core.errors import InvalidInput
from app.usage.filter_parameters import (
    EARLIER_DIMENSIONS,
    FILTER_NAMES,
    MAX_VALUES,
    NEW_DIMENSIONS,
    TIME_NAMES,
    AllFilters,
    Days,
    DaysQuery,
    Only,
    TimesQuery,
    Without,
    ZoneQuery,
    choose_times,
    combine,
    list_filters,
)
from app.usage.filters import Dimension, UsageFilters
from app.usage_reports.reports import (
    PREFIX_BYTES,
    BucketWidth,
    Measure,
    Position,
    Ranking,
    Report,
    ReportQuery,
    ReportRow,
)
from app.usage_reports.service import invalid_cursor
from app.usage_reports.time_buckets import MAX_BUCKETS

MAX_TOP = 100
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime(9999, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class ReportRequest:
    """A requested report and the page to start at."""

    def __init__(self, query: ReportQuery, page: str | None) -> None:
        self.query = query
        self._page = page

    def position(self) -> Position | None:
        """Decode the cursor; None for the first page.

        Raises:
            InvalidInput: the cursor does not belong to this report.
        """
        if self._page is None:
            return None
        content = decode_cursor(self._page)
        head, start, end, digest = content[:8], content[8:16], content[16:24], content[24:56]
        if head != self._digest() or len(digest) != hashlib.sha256().digest_size:
            raise invalid_cursor()
        rank = self._read_rank(content[56:])
        return Position(starting_at=_instant(start), ending_at=_instant(end), digest=digest, **rank)

    def cursor(self, report: Report, row: ReportRow) -> str:
        """Return the cursor of the page that follows this row."""
        position = report.position(row, self.query.ranking)
        content = [self._digest(), _bytes(row.starting_at), _bytes(report.ending_at), row.digest]
        if self.query.ranking is not None:
            value = str(position.value).encode()
            content += [bytes((position.is_other, len(value))), value, *position.named]
        return encode_cursor(b"".join(content))

    def _read_rank(self, content: bytes) -> dict[str, Any]:
        """Read the rest of a cursor: with a ranking, the measure of the row, and the groups that are not the rest.

        Raises:
            InvalidInput
        """
        if self.query.ranking is None and not content:
            return {}
        try:
            is_other, length = content[0], content[1]
            value, named = int(content[2 : 2 + length]), content[2 + length :]
        except (IndexError, ValueError):
            raise invalid_cursor() from None
        if self.query.ranking is None or len(named) % PREFIX_BYTES:
            raise invalid_cursor()
        groups = (named[at : at + PREFIX_BYTES] for at in range(0, len(named), PREFIX_BYTES))
        return {"value": value, "is_other": bool(is_other), "named": tuple(groups)}

    def _digest(self) -> bytes:
        """Identify the query, so that a cursor of another report is rejected."""
        query = self.query
        only = query.filters.only
        content: tuple[object, ...] = (
            query.starting_at,
            query.ending_at,
            query.bucket_width,
            query.zone.key,
            query.group_by,
            [(dimension, sorted(map(str, only[dimension]))) for dimension in only],
        )
        # Cursors of reports without these are the same as before there were any.
        if query.filters.without or query.ranking or query.include_empty:
            content += (sorted(query.filters.without), query.ranking, query.include_empty)
        return hashlib.sha256(repr(content).encode()).digest()[:8]


def _bytes(instant: datetime) -> bytes:
    return ((instant - _EPOCH) // _MICROSECOND).to_bytes(8)


def _instant(content: bytes) -> datetime:
    microseconds = int.from_bytes(content)
    if microseconds >= (_LATEST - _EPOCH) // _MICROSECOND:
        raise invalid_cursor()
    return _EPOCH + timedelta(microseconds=microseconds)


_LIST_HINT = "Write lists with brackets, for example `group_by[]`."
_NAMES = (*TIME_NAMES, *FILTER_NAMES, "bucket_width", "group_by[]", "include_empty", "order_by", "top")

# Reject unknown parameters: with `group_by` instead of `group_by[]`, the response would be a different report.
reject_unknown_parameters = Depends(only_parameters(*_NAMES, "limit", "page", hint=_LIST_HINT))
reject_unknown_csv_parameters = Depends(only_parameters(*_NAMES, hint=_LIST_HINT))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Buckets:
    """Buckets and groups, as the client sent them."""

    bucket_width: BucketWidth
    time_zone: str
    group_by: frozenset[Dimension]


async def _buckets(
    bucket_width: Annotated[
        BucketWidth,
        Query(
            description="Length of a bucket, by the clock and calendar of `time_zone`.",
            examples=["1d", "all"],
        ),
    ] = BucketWidth.DAY,
    time_zone: ZoneQuery = "UTC",
    group_by: Annotated[
        list[Dimension] | None,
        Query(
            alias="group_by[]",
            max_length=MAX_VALUES,
            description="Dimensions to group by. Grouped by `flag`, a request counts once for each of its flags.",
            examples=[["usage_mode", "model"]],
        ),
    ] = None,
) -> _Buckets:
    return _Buckets(bucket_width=bucket_width, time_zone=time_zone, group_by=frozenset(group_by or ()))


async def _page(
    page: Annotated[
        str | None, Query(max_length=2000, description="`next_page` of the previous page, unchanged.")
    ] = None,
) -> str | None:
    return page


async def _include_empty(
    include_empty: Annotated[
        bool,
        Query(
            description="Include buckets without usage, with no results; in CSV, with one line of zeros. They do not count"
            f" towards `limit`. The range may have {MAX_BUCKETS:,} buckets.",
            examples=[True],
        ),
    ] = False,
) -> bool:
    return include_empty


async def _ranking(
    order_by: Annotated[
        str | None,
        Query(
            max_length=64,
            pattern=f"^-?({'|'.join(Measure)})$",
            description="Order the results of each bucket by this field, with `-` in descending order, and equal ones by"
            " dimension. Default: by dimension; with `top`, `-estimated_cost`.",
            examples=["-estimated_cost", "requests"],
        ),
    ] = None,
    top: Annotated[
        int | None,
        Query(
            ge=1,
            le=MAX_TOP,
            description="Show only this many groups, the first ones of the whole report by `order_by`, and in each bucket all"
            ' others as one result with `"other": true`, which comes last.',
            examples=[10],
        ),
    ] = None,
) -> Ranking | None:
    if order_by is None and top is None:
        return None
    chosen = order_by or "-estimated_cost"
    return Ranking(Measure(chosen.removeprefix("-")), chosen.startswith("-"), top)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Presentation:
    """How the results of a report are shown."""

    include_empty: bool
    ranking: Ranking | None


async def _presentation(
    days: DaysQuery,
    include_empty: Annotated[bool, Depends(_include_empty)],
    ranking: Annotated[Ranking | None, Depends(_ranking)],
) -> tuple[Days, _Presentation]:
    return days, _Presentation(include_empty=include_empty, ranking=ranking)


def _query(
    times: tuple[datetime | None, datetime | None],
    buckets: _Buckets,
    filters: UsageFilters,
    days: Days,
    presentation: _Presentation,
) -> ReportQuery:
    """Build the query from all parameters. FastAPI calls the handler only after all of them passed validation.

    Raises:
        InvalidInput
    """
    chosen = choose_times(times, days, buckets.time_zone)
    if chosen.starting_at is None:
        raise InvalidInput.invalid_field("starting_at", "required", "Pass `starting_at` or `starting_on`.")
    has_days = days.starting_on is not None and days.ending_on is not None  # a zone may have skipped a day
    if chosen.ending_at is not None and chosen.ending_at <= chosen.starting_at and not has_days:
        field = "ending_at" if days.ending_on is None else "ending_on"
        raise InvalidInput.of(field, "range_invalid", "Must be later than the start.")
    return ReportQuery(
        starting_at=chosen.starting_at,
        ending_at=chosen.ending_at,
        bucket_width=buckets.bucket_width,
        zone=chosen.zone,
        group_by=tuple(dimension for dimension in Dimension if dimension in buckets.group_by),
        filters=filters,
        ranking=presentation.ranking,
        include_empty=presentation.include_empty,
    )


async def _report_request(
    times: TimesQuery,
    buckets: Annotated[_Buckets, Depends(_buckets)],
    earlier: Annotated[Only, Depends(list_filters(*EARLIER_DIMENSIONS))],
    page: Annotated[str | None, Depends(_page)],
    newer: Annotated[Only, Depends(list_filters(*NEW_DIMENSIONS))],
    without: Without,
    shown: Annotated[tuple[Days, _Presentation], Depends(_presentation)],
) -> ReportRequest:
    """The order of these parameters is that of the document: what release 0.1 had is first."""
    filters = combine(earlier, newer, without=without)
    return ReportRequest(_query(times, buckets, filters, *shown), page)


async def _csv_request(
    times: TimesQuery,
    buckets: Annotated[_Buckets, Depends(_buckets)],
    filters: AllFilters,
    shown: Annotated[tuple[Days, _Presentation], Depends(_presentation)],
) -> ReportQuery:
    return _query(times, buckets, filters, *shown)


RequestedReport = Annotated[ReportRequest, Depends(_report_request)]
RequestedCsv = Annotated[ReportQuery, Depends(_csv_request)]
