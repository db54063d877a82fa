"""Computes the edges of buckets in a time zone, and which parts of them the hourly and daily rollups cover.

All timestamps are UTC. Pure Python, so that the edges do not depend on PostgreSQL's time zone files.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from app.core.time_zones import start_of_day
from app.usage.filters import TimeRange
from app.usage_reports.reports import BucketWidth

MAX_BUCKETS = 10_000

_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DECEMBER = 12


@dataclass(frozen=True, slots=True)
class RollupCoverage:
    """Time ranges by data source: daily rollups for whole UTC days, hourly ones for whole UTC hours, ledger rows for the rest."""

    days: list[TimeRange] = field(default_factory=list)
    hours: list[TimeRange] = field(default_factory=list)
    rows: list[TimeRange] = field(default_factory=list)


class TooManyBuckets(ValueError):
    """The range has more buckets than one report may have."""


def bucket_edges(
    width: BucketWidth,
    zone: ZoneInfo,
    starting_at: datetime,
    ending_at: datetime,
    *,
    within: TimeRange,
    at_most: int | None = None,
) -> Generator[None, None, list[datetime]]:
    """Return the ascending edges of the buckets of `[starting_at, ending_at)`. The range cuts the first and last bucket.

    Yields after each edge: ten thousand of them take some 30 ms. Buckets completely outside `within`, the range that has data, are omitted. The list is empty if no bucket is left.

    Raises:
        TooManyBuckets: there are more buckets than `at_most`.
    """
    if width is BucketWidth.ALL:
        edges = [starting_at, ending_at]
    else:
        first, last = max(starting_at, within[0]), min(ending_at, within[1])
        grid = (_hours if width is BucketWidth.HOUR else _dates)(width, zone, first)
        edges = []
        for edge in grid:
            cut = min(max(edge, starting_at), ending_at)
            if edges and edges[-1] >= cut:
                edges.pop()  # a day that the zone skipped, or a bucket before the range
            edges.append(cut)
            if edge >= last:
                break
            if at_most is not None and len(edges) > at_most:
                raise TooManyBuckets
            yield
    return edges if len(edges) > 1 and edges[0] < edges[-1] else []


def rollup_coverage(edges: Sequence[datetime]) -> Generator[None, None, RollupCoverage]:
    """Split the buckets into whole days, whole hours and the rest. No hour or day crosses an edge.

    Yields before each bucket.
    """
    cover = RollupCoverage()
    for start, end in pairwise(edges):
        yield
        first_hour, last_hour = _up(start, _HOUR), _down(end, _HOUR)
        if first_hour >= last_hour:
            _extend(cover.rows, start, end)
            continue
        _extend(cover.rows, start, first_hour)
        first_day, last_day = _up(first_hour, _DAY), _down(last_hour, _DAY)
        if first_day >= last_day:
            _extend(cover.hours, first_hour, last_hour)
        else:
            _extend(cover.hours, first_hour, first_day)
            _extend(cover.days, first_day, last_day)
            _extend(cover.hours, last_day, last_hour)
        _extend(cover.rows, last_hour, end)
    return cover


def _extend(time_ranges: list[TimeRange], start: datetime, end: datetime) -> None:
    if start >= end:
        return
    if time_ranges and time_ranges[-1][1] == start:
        time_ranges[-1] = (time_ranges[-1][0], end)
    else:
        time_ranges.append((start, end))


def _down(instant: datetime, unit: timedelta) -> datetime:
    return instant - (instant - _EPOCH) % unit


def _up(instant: datetime, unit: timedelta) -> datetime:
    return instant + -(instant - _EPOCH) % unit


def _dates(width: BucketWidth, zone: ZoneInfo, first: datetime) -> Iterator[datetime]:
    """Yield the starts of days or months, beginning with the last one not after `first`."""
    day = first.astimezone(zone).date()
    if width is BucketWidth.MONTH:
        day = day.replace(day=1)
    while True:
        yield start_of_day(day, zone)
        day = day + _DAY if width is BucketWidth.DAY else _next_month(day)


def _next_month(day: date) -> date:
    is_last = day.month == _DECEMBER
    return date(day.year + is_last, 1 if is_last else day.month + 1, 1)


def _hours(_: BucketWidth, zone: ZoneInfo, first: datetime) -> Iterator[datetime]:
    """Yield the full hours of the zone's clock. A change of its UTC offset also ends an hour."""
    local = first.astimezone(zone)
    edge = first - _past_the_hour(local)
    if edge.astimezone(zone).utcoffset() != local.utcoffset():
        edge = _change(zone, edge, first)
    while True:
        yield edge
        local = edge.astimezone(zone)
        following = edge + _HOUR - _past_the_hour(local)
        if following.astimezone(zone).utcoffset() != local.utcoffset():
            following = _change(zone, edge, following)
        edge = following


def _past_the_hour(local: datetime) -> timedelta:
    return timedelta(minutes=local.minute, seconds=local.second, microseconds=local.microsecond)


def _change(zone: ZoneInfo, before: datetime, after: datetime) -> datetime:
    """Return the first second at which the UTC offset differs from the one at `before`."""
    offset = before.astimezone(zone).utcoffset()
    low, high = before.replace(microsecond=0), after
    while high - low > timedelta(seconds=1):
        middle = low + timedelta(seconds=(high - low) // timedelta(seconds=2))
        if middle.astimezone(zone).utcoffset() == offset:
            low = middle
        else:
            high = middle
    return high.replace(microsecond=0)
