"""A report worked out the slow way: one event after the other, in plain Python, with a zone's own calendar.

It shares nothing with the service but the words of the API. Buckets are named by what the local
clock and calendar say; where one begins and ends is checked by asking which instants bear its name.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from tests.ledger import Event

DIMENSIONS = (
    *("usage_mode", "model", "endpoint_id", "feature", "session_id"),
    *("prompt_id", "credential_id", "key_version", "outcome"),
)
_PICO = Decimal(10) ** 12
_MOMENT = timedelta(microseconds=1)

Name = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question, as its parameters say it."""

    starting_at: datetime
    ending_at: datetime
    bucket_width: str = "1d"
    time_zone: str = "UTC"
    group_by: Sequence[str] = ()
    filters: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    @property
    def parameters(self) -> dict[str, Any]:
        return {
            "starting_at": self.starting_at.isoformat(),
            "ending_at": self.ending_at.isoformat(),
            "bucket_width": self.bucket_width,
            "time_zone": self.time_zone,
            "group_by[]": list(self.group_by),
            **{f"{name}[]": [str(value) for value in values] for name, values in self.filters.items()},
        }

    def name_of(self, instant: datetime) -> Name:
        """What the bucket of an instant is called."""
        local = instant.astimezone(ZoneInfo(self.time_zone))
        match self.bucket_width:
            case "1h":
                return local.date(), local.hour, local.utcoffset()
            case "1d":
                return (local.date(),)
            case "1mo":
                return local.year, local.month
        return ()


def _value(event: Event, dimension: str) -> Any:
    value = getattr(event, "mode" if dimension == "usage_mode" else dimension)
    return str(value) if dimension == "credential_id" and value is not None else value


def expected(events: Iterable[Event], asked: Asked) -> list[tuple[Name, dict[str, Any]]]:
    """Name of the bucket, and its results, in order."""
    priced = {(it.started_at, it.event_id) for it in events if it.cost is not None}
    groups: dict[tuple[datetime, Name], list[Event]] = defaultdict(list)
    first: dict[Name, datetime] = {}
    for it in sorted(events, key=lambda event: event.started_at):
        if not asked.starting_at <= it.started_at < asked.ending_at:
            continue
        if any(_value(it, name) not in [*map(_same, values)] for name, values in asked.filters.items()):
            continue
        name = asked.name_of(it.started_at)
        first.setdefault(name, it.started_at)
        dimensions = tuple(_value(it, dimension) for dimension in DIMENSIONS if dimension in asked.group_by)
        groups[first[name], dimensions].append(it)
    return [
        (asked.name_of(start), _result(members, asked, priced))
        for (start, _), members in sorted(groups.items(), key=lambda item: (item[0][0], _order(item[0][1])))
    ]


def _same(value: Any) -> Any:
    return value if isinstance(value, int) else str(value)


def _order(dimensions: Name) -> list[tuple[bool, Any]]:
    return [(value is not None, value) for value in dimensions]


def _result(members: list[Event], asked: Asked, priced: set[tuple[datetime, str]]) -> dict[str, Any]:
    shown = {
        dimension: _value(members[0], dimension) if dimension in asked.group_by else None
        for dimension in DIMENSIONS
    }
    own = [it for it in members if it.correction == 0]
    return shown | {
        "requests": len(own),
        "uncached_input_tokens": sum(it.uncached_input_tokens for it in members),
        "cache_creation": {
            "ephemeral_5m_input_tokens": sum(it.cache_write_5m_tokens for it in members),
            "ephemeral_1h_input_tokens": sum(it.cache_write_1h_tokens for it in members),
        },
        "cache_read_input_tokens": sum(it.cache_read_tokens for it in members),
        "output_tokens": sum(it.output_tokens for it in members),
        "web_search_requests": sum(it.web_search_requests for it in members),
        "estimated_cost": sum((Decimal(it.cost or 0) for it in members), Decimal(0)) / _PICO,
        "billed_cost": sum((Decimal(it.billed) for it in members), Decimal(0)) / _PICO,
        "unpriced_requests": sum((it.started_at, it.event_id) not in priced for it in own),
    }


def told(report: Mapping[str, Any], asked: Asked) -> list[tuple[Name, dict[str, Any]]]:
    """The same of an answer. Fails where a bucket is longer or shorter than its name."""
    found = []
    for bucket in report["data"]:
        start, end = (datetime.fromisoformat(bucket[name]) for name in ("starting_at", "ending_at"))
        assert bucket["starting_at"].endswith("Z")
        assert bucket["ending_at"].endswith("Z")
        name = asked.name_of(start)
        assert name == asked.name_of(end - _MOMENT)
        assert start == asked.starting_at or asked.name_of(start - _MOMENT) != name
        assert end == asked.ending_at or asked.name_of(end) != name
        assert asked.starting_at <= start < end <= asked.ending_at
        assert bucket["results"]
        found += [(name, _plain(result)) for result in bucket["results"]]
    return found


def _plain(result: Mapping[str, Any]) -> dict[str, Any]:
    money = {name: Decimal(result[name]["amount"]) for name in ("estimated_cost", "billed_cost")}
    return {**result, **money}


def utc(*numbers: int) -> datetime:
    return datetime(*numbers, tzinfo=UTC)  # type: ignore[arg-type, misc]  # year, month, day, ...
