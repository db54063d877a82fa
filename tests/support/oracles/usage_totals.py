"""An oracle that recomputes reports and spend limits from the rows of tests/support/oracles/usage.py."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import product
from typing import Any
from zoneinfo import ZoneInfo

from tests.support.oracles.usage import PICO, Row, bare_model

DIMENSIONS = (
    *("usage_mode", "model", "endpoint_id", "feature", "session_id"),
    *("prompt_id", "credential_id", "key_version", "outcome"),
    *("usage_source", "service_tier", "speed", "inference_geo", "flag"),
)
Money = dict[str, str]


def pico(money: Mapping[str, str]) -> int:
    """Convert a wire amount, which is exact, to pico-USD."""
    assert money["currency"] == "USD"
    amount = Decimal(money["amount"]) * PICO
    assert amount == amount.to_integral_value()
    return int(amount)


# Reports


@dataclass(frozen=True, kw_only=True)
class ReportParameters:
    """The query parameters of a report."""

    starting_at: datetime
    ending_at: datetime
    width: str
    zone: str
    group_by: Sequence[str] = ()
    models: Sequence[str] = ()

    @property
    def query(self) -> dict[str, Any]:
        return {
            "starting_at": self.starting_at.isoformat(),
            "ending_at": self.ending_at.isoformat(),
            "bucket_width": self.width,
            "time_zone": self.zone,
            "group_by[]": list(self.group_by),
            "model[]": list(self.models),
        }

    def covers(self, row: Row) -> bool:
        """Return whether a row is in the range and has one of the models, in any spelling."""
        is_of_model = not self.models or bare_model(row.model) in map(bare_model, self.models)
        return is_of_model and self.starting_at <= row.started_at < self.ending_at

    def bucket_of(self, instant: datetime) -> tuple[datetime, datetime]:
        """Return start and end of the bucket by local date and time, cut at the edges of the report."""
        start, end = self._whole_bucket(instant)
        return max(start, self.starting_at), min(end, self.ending_at)

    def _whole_bucket(self, instant: datetime) -> tuple[datetime, datetime]:
        local = instant.astimezone(ZoneInfo(self.zone))
        if self.width == "all":
            return self.starting_at, self.ending_at
        if self.width == "1h":
            into = timedelta(minutes=local.minute, seconds=local.second, microseconds=local.microsecond)
            return instant - into, instant - into + timedelta(hours=1)
        first = local.date() if self.width == "1d" else local.date().replace(day=1)
        days = 1 if self.width == "1d" else 31
        following = first + timedelta(days=days)
        if self.width == "1mo":
            following = following.replace(day=1)
        return self._midnight(first), self._midnight(following)

    def _midnight(self, day: date) -> datetime:
        return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(self.zone)).astimezone(UTC)


def report(rows: Iterable[Row], parameters: ReportParameters) -> list[dict[str, Any]]:
    """Return all expected results with their buckets, in the order of the response."""
    grouped = [name for name in DIMENSIONS if name in parameters.group_by]
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if parameters.covers(row):
            bucket = parameters.bucket_of(row.started_at)
            for named in product(*(_values(row, name) for name in grouped)):
                groups[*bucket, named].append(row)
    ordered = sorted(
        groups.items(), key=lambda it: (it[0][0], [(value is not None, value) for value in it[0][2]])
    )
    return [
        {"starting_at": start, "ending_at": end} | _result(members, dict(zip(grouped, named, strict=True)))
        for (start, end, named), members in ordered
        if is_used(members)
    ]


def is_used(members: Sequence[Row]) -> bool:
    """Return whether rows leave anything: those of events that were all corrected cancel each other."""
    names = members[0].tokens
    return any(
        (
            sum(row.requests for row in members),
            sum(row.unpriced for row in members),
            sum(row.cost or 0 for row in members),
            sum(row.billed for row in members),
            *(sum(row.tokens[name] for row in members) for name in names),
        )
    )


def _values(row: Row, dimension: str) -> Sequence[Any]:
    """Return the value of a dimension, or each flag. A row without a flag has the value None."""
    return (row.flags or (None,)) if dimension == "flag" else (getattr(row, dimension),)


def _result(members: Sequence[Row], named: Mapping[str, Any]) -> dict[str, Any]:
    def total(name: str) -> int:
        return sum(row.tokens[name] for row in members)

    return {
        **{name: named.get(name) for name in DIMENSIONS},
        "other": False,  # only with `top`
        "requests": sum(row.requests for row in members),
        "uncached_input_tokens": total("uncached_input"),
        "cache_creation": {
            "ephemeral_5m_input_tokens": total("cache_write_5m"),
            "ephemeral_1h_input_tokens": total("cache_write_1h"),
        },
        "cache_read_input_tokens": total("cache_read"),
        "output_tokens": total("output"),
        "web_search_requests": total("web_search_requests"),
        "estimated_cost": sum(row.cost or 0 for row in members),
        "billed_cost": sum(row.billed for row in members),
        "unpriced_requests": sum(row.unpriced for row in members),
    }


def parse_report(pages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Parse the pages of a response into the same form."""
    return [
        {
            **{name: datetime.fromisoformat(bucket[name]) for name in ("starting_at", "ending_at")},
            **result,
            **{name: pico(result[name]) for name in ("estimated_cost", "billed_cost")},
        }
        for page in pages
        for bucket in page["data"]
        for result in bucket["results"]
    ]


# Spend limits


@dataclass(frozen=True, kw_only=True)
class OpenReservation:
    """A reservation that was neither settled by an event with a price nor released."""

    usage_mode: str
    model: str | None
    endpoint_id: str | None
    feature: str | None
    amount: int
    created_at: datetime


def expected_spend(
    rows: Iterable[Row],
    open_reservations: Iterable[OpenReservation],
    limit: Mapping[str, Any],
    period_starts_at: datetime | None,
) -> dict[str, int]:
    """Return the expected values of a limit in a period."""
    covers = _covers(limit["scope"])
    ends_at = _end_of(limit["period"], period_starts_at)

    def is_within(instant: datetime) -> bool:
        return (period_starts_at is None or period_starts_at <= instant) and (
            ends_at is None or instant < ends_at
        )

    counted = [row for row in rows if covers(row) and is_within(row.started_at)]
    managed, byo = (
        sum(row.counts for row in counted if row.usage_mode == mode) for mode in ("managed", "byo")
    )
    amount, total = pico(limit["amount"]), managed + byo
    reserved = sum(it.amount for it in open_reservations if covers(it) and is_within(it.created_at))
    return {
        "spent": total,
        "spent_managed": managed,
        "spent_byo": byo,
        "reserved": reserved,
        "remaining": max(0, amount - total - reserved),
        "overrun": max(0, total - amount),
        "unpriced_requests": sum(row.unpriced for row in counted),
    }


def crossed(limit: Mapping[str, Any], total: int) -> set[int]:
    return {it for it in limit["thresholds"] if total and total * 100 >= it * pico(limit["amount"])}


def period_of(period: str, instant: datetime) -> datetime | None:
    day = instant.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return {"day": day, "month": day.replace(day=1), "total": None}[period]


def _end_of(period: str, start: datetime | None) -> datetime | None:
    if start is None:
        return None
    if period == "day":
        return start + timedelta(days=1)
    return (start + timedelta(days=31)).replace(day=1)


def _covers(scope: Mapping[str, Any]) -> Callable[[Row | OpenReservation], bool]:
    def covers(it: Row | OpenReservation) -> bool:
        return (
            scope["usage_mode"] in ("any", it.usage_mode)
            and all(scope[name] in (None, getattr(it, name)) for name in ("endpoint_id", "feature"))
            and (
                scope["model"] is None
                or (it.model is not None and bare_model(it.model) == bare_model(scope["model"]))
            )
        )

    return covers
