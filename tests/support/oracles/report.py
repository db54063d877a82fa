"""An oracle that computes a report the slow way: event by event, in plain Python.

It shares only the API's field names with the service. It names buckets by local date and time, and checks the edges of
a bucket by comparing the names of the times around them.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import product
from typing import Any
from zoneinfo import ZoneInfo

from tests.support.database.ledger import Event
from tests.support.oracles.usage import bare_model

DIMENSIONS = (
    *("usage_mode", "model", "endpoint_id", "feature", "session_id"),
    *("prompt_id", "credential_id", "key_version", "outcome"),
    *("usage_source", "service_tier", "speed", "inference_geo", "flag"),
)
# Bits of the ledger, by the names that the API gives them.
FLAGS = {"mode_mismatch": 1, "cache_ttl_assumed": 2, "tier_assumed": 4, "mixed_models": 8}
_PICO = Decimal(10) ** 12
_MOMENT = timedelta(microseconds=1)

BucketName = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class ReportParameters:
    """The query parameters of a report."""

    starting_at: datetime
    ending_at: datetime
    bucket_width: str = "1d"
    time_zone: str = "UTC"
    group_by: Sequence[str] = ()
    filters: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    without: Sequence[str] = ()
    order_by: str | None = None
    top: int | None = None

    @property
    def query(self) -> dict[str, Any]:
        return {
            "starting_at": self.starting_at.isoformat(),
            "ending_at": self.ending_at.isoformat(),
            "bucket_width": self.bucket_width,
            "time_zone": self.time_zone,
            "group_by[]": list(self.group_by),
            **{f"{name}[]": [str(value) for value in values] for name, values in self.filters.items()},
            "without[]": list(self.without),
            **({} if self.order_by is None else {"order_by": self.order_by}),
            **({} if self.top is None else {"top": self.top}),
        }

    def bucket_name(self, instant: datetime) -> BucketName:
        """Return the name of the bucket that contains a time."""
        local = instant.astimezone(ZoneInfo(self.time_zone))
        match self.bucket_width:
            case "1h":
                return local.date(), local.hour, local.utcoffset()
            case "1d":
                return (local.date(),)
            case "1mo":
                return local.year, local.month
        return ()


def _values(event: Event, dimension: str) -> list[Any]:
    """Return the values of a dimension: None, or a single one, or one for each flag."""
    if dimension == "flag":
        return [name for name, bit in FLAGS.items() if event.flags & bit] or [None]
    value = getattr(event, "mode" if dimension == "usage_mode" else dimension)
    return [str(value) if dimension == "credential_id" and value is not None else value]


def expected(
    events: Iterable[Event], parameters: ReportParameters
) -> list[tuple[BucketName, dict[str, Any]]]:
    """Return the expected bucket names and results, in order."""
    priced = {(it.started_at, it.event_id) for it in events if it.cost is not None}
    grouped = [name for name in DIMENSIONS if name in parameters.group_by]
    groups: dict[tuple[datetime, BucketName], list[Event]] = defaultdict(list)
    first: dict[BucketName, datetime] = {}
    for it in sorted(events, key=lambda event: event.started_at):
        if not parameters.starting_at <= it.started_at < parameters.ending_at or not _matches(it, parameters):
            continue
        name = parameters.bucket_name(it.started_at)
        first.setdefault(name, it.started_at)
        for dimensions in product(*(_values(it, dimension) for dimension in grouped)):
            groups[first[name], dimensions].append(it)
    if parameters.order_by is None and parameters.top is None:
        order = sorted(groups, key=lambda key: (key[0], _order(key[1])))
        return [
            (
                parameters.bucket_name(start),
                _result(groups[start, key], zip(grouped, key, strict=True), priced),
            )
            for start, key in order
        ]
    return _ranked(groups, grouped, parameters, priced)


def _ranked(
    groups: Mapping[tuple[datetime, BucketName], list[Event]],
    grouped: Sequence[str],
    parameters: ReportParameters,
    priced: set[tuple[datetime, str]],
) -> list[tuple[BucketName, dict[str, Any]]]:
    """Order the results of each bucket by a measure, and combine all groups but the first ones of the whole report."""
    order_by = parameters.order_by or "-estimated_cost"
    sign = -1 if order_by.startswith("-") else 1

    def rank(members: list[Event]) -> Any:
        return sign * _result(members, (), priced)[order_by.removeprefix("-")]

    whole: dict[BucketName, list[Event]] = defaultdict(list)
    for (_, key), members in groups.items():
        whole[key] += members
    named = sorted(whole, key=lambda key: (rank(whole[key]), _order(key)))[: parameters.top]
    buckets: dict[datetime, dict[BucketName | None, list[Event]]] = defaultdict(lambda: defaultdict(list))
    for (start, key), members in groups.items():
        buckets[start][key if key in named else None] += members
    return [
        (
            parameters.bucket_name(start),
            _result(members, () if key is None else zip(grouped, key, strict=True), priced)
            | {"other": key is None},
        )
        for start in sorted(buckets)
        for key, members in sorted(
            buckets[start].items(), key=lambda item: (item[0] is None, rank(item[1]), _order(item[0] or ()))
        )
    ]


def _matches(event: Event, parameters: ReportParameters) -> bool:
    for name in {*parameters.filters, *parameters.without}:
        values = _values(event, name)
        is_none = name in parameters.without and values == [None]
        if not is_none and not any(_is_one_of(it, name, parameters.filters.get(name, ())) for it in values):
            return False
    return True


def _is_one_of(value: Any, name: str, values: Sequence[Any]) -> bool:
    """A model matches by any of its spellings, all other values exactly."""
    if value is None:
        return False
    if name == "model":
        return bare_model(value) in [bare_model(one) for one in values]
    return value in [*map(_same, values)]


def _same(value: Any) -> Any:
    return value if isinstance(value, int) else str(value)


def _order(dimensions: BucketName) -> list[tuple[bool, Any]]:
    return [(value is not None, value) for value in dimensions]


def _result(
    members: list[Event], dimensions: Iterable[tuple[str, Any]], priced: set[tuple[datetime, str]]
) -> dict[str, Any]:
    shown = dict.fromkeys(DIMENSIONS) | dict(dimensions) | {"other": False}
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


def parse_report(
    report: Mapping[str, Any], parameters: ReportParameters
) -> list[tuple[BucketName, dict[str, Any]]]:
    """Parse a response into the same form. Fails if the edges of a bucket do not match its name."""
    found = []
    for bucket in report["data"]:
        start, end = (datetime.fromisoformat(bucket[name]) for name in ("starting_at", "ending_at"))
        assert bucket["starting_at"].endswith("Z")
        assert bucket["ending_at"].endswith("Z")
        name = parameters.bucket_name(start)
        assert name == parameters.bucket_name(end - _MOMENT)
        assert start == parameters.starting_at or parameters.bucket_name(start - _MOMENT) != name
        assert end == parameters.ending_at or parameters.bucket_name(end) != name
        assert parameters.starting_at <= start < end <= parameters.ending_at
        assert bucket["results"]
        found += [(name, _plain(result)) for result in bucket["results"]]
    return found


def _plain(result: Mapping[str, Any]) -> dict[str, Any]:
    money = {name: Decimal(result[name]["amount"]) for name in ("estimated_cost", "billed_cost")}
    return {**result, **money}


def utc(*numbers: int) -> datetime:
    return datetime(*numbers, tzinfo=UTC)  # type: ignore[arg-type, misc]  # year, month, day, ...
