"""Cutting time: the edges of buckets in a time zone, and which stretches whole hours and days cover.

Instants are UTC throughout. Pure Python, so that the edges are the same whatever zone files PostgreSQL has.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from app.usage_reports.reports import BucketWidth

Stretch = tuple[datetime, datetime]

_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DECEMBER = 12


@dataclass(frozen=True, slots=True)
class Cover:
    """Stretches by what answers them: whole UTC days, else whole UTC hours, else single rows."""

    days: list[Stretch] = field(default_factory=list)
    hours: list[Stretch] = field(default_factory=list)
    rows: list[Stretch] = field(default_factory=list)


def bucket_edges(
    width: BucketWidth, zone: ZoneInfo, starting_at: datetime, ending_at: datetime, *, within: Stretch
) -> list[datetime]:
    """Strictly ascending edges of the buckets of `[starting_at, ending_at)`; the outer two cut to the range.

    Buckets wholly outside `within`, where there is data, are left out. Fewer than two edges: no bucket.
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
                edges.pop()  # a day that a zone skipped, or one before the range
            edges.append(cut)
            if edge >= last:
                break
    return edges if len(edges) > 1 and edges[0] < edges[-1] else []


def cover_of(edges: Sequence[datetime]) -> Cover:
    """No hour and no day in it reaches over an edge."""
    cover = Cover()
    for start, end in pairwise(edges):
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


def _extend(stretches: list[Stretch], start: datetime, end: datetime) -> None:
    if start >= end:
        return
    if stretches and stretches[-1][1] == start:
        stretches[-1] = (stretches[-1][0], end)
    else:
        stretches.append((start, end))


def _down(instant: datetime, unit: timedelta) -> datetime:
    return instant - (instant - _EPOCH) % unit


def _up(instant: datetime, unit: timedelta) -> datetime:
    return instant + -(instant - _EPOCH) % unit


def _dates(width: BucketWidth, zone: ZoneInfo, first: datetime) -> Iterator[datetime]:
    """Midnights of days or of first days of months, from the last one not after `first` on.

    A midnight that a clock skips is the instant of the skip; one that comes twice is the first.
    """
    day = first.astimezone(zone).date()
    if width is BucketWidth.MONTH:
        day = day.replace(day=1)
    while True:
        yield datetime.combine(day, time(), tzinfo=zone).astimezone(UTC)
        day = day + _DAY if width is BucketWidth.DAY else _next_month(day)


def _next_month(day: date) -> date:
    is_last = day.month == _DECEMBER
    return date(day.year + is_last, 1 if is_last else day.month + 1, 1)


def _hours(_: BucketWidth, zone: ZoneInfo, first: datetime) -> Iterator[datetime]:
    """Full hours of the zone's clock; a change of its offset from UTC ends an hour too."""
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
    """The first instant, to the second, at which the offset is no longer what it was `before`."""
    offset = before.astimezone(zone).utcoffset()
    low, high = before.replace(microsecond=0), after
    while high - low > timedelta(seconds=1):
        middle = low + timedelta(seconds=(high - low) // timedelta(seconds=2))
        if middle.astimezone(zone).utcoffset() == offset:
            low = middle
        else:
            high = middle
    return high.replace(microsecond=0)
