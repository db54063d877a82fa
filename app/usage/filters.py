"""The dimensions of usage, and filters by them, which the ledger listing and reports share."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from app.usage_events.records import LedgerRow, UsageFlag


class Dimension(StrEnum):
    """Dimensions for grouping and filtering, in the sort order of results."""

    USAGE_MODE = "usage_mode"
    MODEL = "model"
    ENDPOINT_ID = "endpoint_id"
    FEATURE = "feature"
    SESSION_ID = "session_id"
    PROMPT_ID = "prompt_id"
    CREDENTIAL_ID = "credential_id"
    KEY_VERSION = "key_version"
    OUTCOME = "outcome"
    USAGE_SOURCE = "usage_source"
    SERVICE_TIER = "service_tier"
    SPEED = "speed"
    INFERENCE_GEO = "inference_geo"
    FLAG = "flag"


class OptionalDimension(StrEnum):
    """Dimensions that usage may have no value of."""

    ENDPOINT_ID = Dimension.ENDPOINT_ID.value
    FEATURE = Dimension.FEATURE.value
    SESSION_ID = Dimension.SESSION_ID.value
    PROMPT_ID = Dimension.PROMPT_ID.value
    CREDENTIAL_ID = Dimension.CREDENTIAL_ID.value
    KEY_VERSION = Dimension.KEY_VERSION.value
    SERVICE_TIER = Dimension.SERVICE_TIER.value
    SPEED = Dimension.SPEED.value
    INFERENCE_GEO = Dimension.INFERENCE_GEO.value
    FLAG = Dimension.FLAG.value


# Dimensions of single requests, which no rollup has.
PER_REQUEST = frozenset({Dimension.SESSION_ID, Dimension.PROMPT_ID})
FLAGS: Mapping[str, UsageFlag] = {str(flag.name).lower(): flag for flag in UsageFlag if flag}

DimensionValue = str | int | UUID
TimeRange = tuple[datetime, datetime]


@dataclass(frozen=True, slots=True)
class FilterShape:
    """Which dimensions a filter compares: with values, and with none. It determines the SQL conditions."""

    only: frozenset[Dimension] = frozenset()
    without: frozenset[Dimension] = frozenset()

    @property
    def dimensions(self) -> frozenset[Dimension]:
        return self.only | self.without

    @property
    def needs_ledger(self) -> bool:
        """Whether only the rows of the ledger have what the filter compares."""
        return not PER_REQUEST.isdisjoint(self.only)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageFilters:
    """Conditions by dimension, which must all be met: one of the values of `only`, or none if the dimension is in `without`."""

    only: Mapping[Dimension, Sequence[DimensionValue]] = field(default_factory=dict)
    without: frozenset[Dimension] = frozenset()

    @property
    def shape(self) -> FilterShape:
        return FilterShape(frozenset(self.only), self.without)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFilter:
    """Conditions that a ledger row must meet. None means no condition. `starting_at` is inclusive, `ending_at` exclusive."""

    usage: UsageFilters = field(default_factory=UsageFilters)
    event_id: str | None = None
    provider_request_id: str | None = None
    starting_at: datetime | None = None
    ending_at: datetime | None = None

    @property
    def uses_ledger_index(self) -> bool:
        """Whether an index of the ledger finds the rows: by request, event, session or prompt."""
        return (
            self.event_id is not None or self.provider_request_id is not None or self.usage.shape.needs_ledger
        )

    def cut(self, start: datetime, end: datetime) -> TimeRange:
        """Return the part of a range within the filter's own."""
        return (
            start if self.starting_at is None else max(start, self.starting_at),
            end if self.ending_at is None else min(end, self.ending_at),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RowCursor:
    """The sort key of a row: `started_at`, event id, part, correction, all descending."""

    started_at: datetime
    event_id: str
    part: int
    correction: int

    @classmethod
    def of(cls, row: LedgerRow) -> "RowCursor":
        return cls(started_at=row.started_at, event_id=row.event_id, part=row.part, correction=row.correction)


class MatchingDay(NamedTuple):
    """A UTC day on which rows match a filter. `rows` is a lower bound of how many."""

    day: datetime
    rows: int


def ranges_of_page(
    days: Iterable[MatchingDay], filters: RowFilter, *, at_most: int, after: RowCursor | None
) -> list[TimeRange]:
    """Choose the days that a page must read, newest first, until they certainly have enough rows.

    Only whole days are certain: the page may have no row from the day of the cursor, or from a day that a bound cuts.
    """
    found: list[TimeRange] = []
    enough = at_most
    for day, rows in days:
        whole = (day, day + timedelta(days=1))
        time_range = filters.cut(*whole)
        if time_range[0] >= time_range[1] or (after is not None and day > after.started_at):
            continue
        found.append(time_range)
        if time_range == whole and (after is None or whole[1] <= after.started_at):
            enough -= rows
        if enough <= 0:
            break
    return found
