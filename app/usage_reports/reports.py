"""Usage reports: what may be asked, and the sums that are answered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID
from zoneinfo import ZoneInfo, available_timezones

from app.usage.records import TokenUsage

_ZONES = frozenset(available_timezones())


class Dimension(StrEnum):
    """What rows can be grouped and filtered by, in the order in which results are sorted."""

    USAGE_MODE = "usage_mode"
    MODEL = "model"
    ENDPOINT_ID = "endpoint_id"
    FEATURE = "feature"
    SESSION_ID = "session_id"
    PROMPT_ID = "prompt_id"
    CREDENTIAL_ID = "credential_id"
    KEY_VERSION = "key_version"
    OUTCOME = "outcome"


class BucketWidth(StrEnum):
    """How time is cut: by the clock and calendar of a time zone, or not at all."""

    HOUR = "1h"
    DAY = "1d"
    MONTH = "1mo"
    ALL = "all"


DimensionValue = str | int | UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportQuery:
    """One question. `group_by` is in the order of `Dimension`; `ending_at` None: until now."""

    starting_at: datetime
    ending_at: datetime | None
    bucket_width: BucketWidth
    zone: ZoneInfo
    group_by: tuple[Dimension, ...]
    filters: Mapping[Dimension, Sequence[DimensionValue]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a page ended: its last row, by the digest of its dimensions, in the bucket that starts at an instant.

    `ending_at` stays what it was on the first page, so that "until now" does not move between pages.
    """

    starting_at: datetime
    ending_at: datetime
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRow:
    """Sums of one group in one bucket. Costs are pico-USD; `cost` leaves out what has no known price."""

    starting_at: datetime
    ending_at: datetime
    dimensions: Mapping[Dimension, DimensionValue | None]
    digest: bytes
    requests: int
    tokens: TokenUsage
    cost: int
    billed: int
    unpriced_requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Rows in order. Whatever was accepted before `as_of` is in it."""

    rows: Sequence[ReportRow]
    ending_at: datetime
    as_of: datetime


def zone_of(name: str) -> ZoneInfo:
    """Raises ValueError where the IANA database has no such zone."""
    if name not in _ZONES:
        raise ValueError("no such time zone")
    return ZoneInfo(name)
