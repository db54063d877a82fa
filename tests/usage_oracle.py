"""The ledger worked out a second time, from what was sent and answered: mode, key version, tokens, cost, bill.

Plain Python with whole pico-USD. It shares nothing with the service but the words of the API: prices are
written out here as the provider publishes them, and rows are worked out one by one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

PICO = Decimal(10) ** 12
CLASSES = ("uncached_input", "cache_write_5m", "cache_write_1h", "cache_read", "output")
_PER_TOKEN = Decimal(10) ** 6  # from USD per million tokens to pico-USD per token
_SEARCH = 10**10  # 10 USD per thousand

Tokens = dict[str, int]
Parts = list[tuple[str, Tokens]]


@dataclass(frozen=True, kw_only=True)
class Listed:
    """USD per million tokens in the order of CLASSES, as published; `longer` counts above 100,000 tokens of prompt."""

    rates: str
    longer: str | None = None
    has_fast: bool = False
    has_geography: bool = True


LIST: Mapping[str, Listed] = {
    "claude-haiku-5-5": Listed(rates="0.10 0.125 0.20 0.01 0.50", longer="0.50 0.625 1.00 0.05 2.50"),
    "claude-haiku-4-5": Listed(rates="1 1.25 2 0.10 5", has_geography=False),
    "claude-sonnet-5-5": Listed(rates="2 2.50 4 0.10 10"),
    "claude-sonnet-4-5": Listed(rates="3 3.75 6 0.30 15", has_geography=False),
    "claude-opus-5-5": Listed(rates="4 5 8 0.20 20", has_fast=True),
    "claude-fable-5-1": Listed(rates="10 12.50 20 0.25 50"),
}
LONG_PROMPT = 100_000


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point of the timeline of usage modes."""

    at: datetime
    mode: str
    credential_id: str | None


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """A list of an organization's own prices: its entries as they were sent, the rest as it was answered."""

    number: int
    effective_from: datetime
    set_at: datetime
    entries: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """What the ledger must hold of one event."""

    event_id: str
    started_at: datetime
    ingested_at: datetime
    usage_mode: str
    credential_id: str | None
    key_version: int | None
    model: str
    endpoint_id: str | None
    feature: str | None
    session_id: str | None
    prompt_id: str | None
    outcome: str
    usage_source: str
    tokens: Tokens
    cost: int | None
    billed: int
    is_mismatch: bool
    reservation_id: str | None

    @property
    def counts(self) -> int:
        """Against spend limits: what is billed of managed use, the estimate of the rest."""
        return self.billed if self.usage_mode == "managed" else self.cost or 0


@dataclass(kw_only=True)
class Known:
    """What one organization was told: its timeline, its own prices, its key versions, its accepted events."""

    points: list[Point] = field(default_factory=list)
    overrides: dict[int, Overrides] = field(default_factory=dict)
    versions: dict[str, list[tuple[datetime, int]]] = field(default_factory=dict)
    events: dict[str, dict[str, Any]] = field(default_factory=dict)

    def point_at(self, instant: datetime) -> Point | None:
        """The last one that has begun. None: nobody chose yet, so it is managed."""
        return max((it for it in self.points if it.at <= instant), key=lambda it: it.at, default=None)

    def version_at(self, credential_id: str, instant: datetime) -> int | None:
        begun = [it for it in self.versions.get(credential_id, []) if it[0] <= instant]
        return max(begun)[1] if begun else None

    def prices_at(self, instant: datetime) -> Overrides | None:
        """The last list that has begun. One that was replaced before it began never does."""
        lists = sorted(self.overrides.values(), key=lambda it: it.number)
        found = None
        for one, later in zip(lists, [*lists[1:], None], strict=True):
            was_replaced = later is not None and later.set_at < one.effective_from
            if one.effective_from <= instant and not was_replaced:
                found = one
        return found

    def cost(self, parts: Parts, usage: Mapping[str, Any], at: datetime) -> int | None:
        own = self.prices_at(at)
        total = 0
        for model, tokens in parts:
            entry = None if own is None else _entry(own.entries, model)
            one = _listed_cost(model, tokens, usage) if entry is None else _own_cost(entry, tokens)
            if one is None:
                return None
            total += one
        return total

    def row(self, event: Mapping[str, Any], ingested_at: datetime) -> Row:
        started_at = datetime.fromisoformat(event["started_at"]).astimezone(UTC)
        at = min(started_at, ingested_at)
        point = self.point_at(at)
        mode = "managed" if point is None else point.mode
        credential_id, key_version = event.get("credential_id"), event.get("key_version")
        is_mismatch = mode == "managed" and credential_id is not None
        if mode == "byo" and credential_id is None and point is not None:
            credential_id = point.credential_id
        if credential_id is not None and key_version is None:
            key_version = self.version_at(credential_id, at)
        parts = parts_of(event["model"], event["usage"])
        cost = self.cost(parts, event["usage"], at)
        return Row(
            event_id=event["event_id"],
            started_at=started_at,
            ingested_at=ingested_at,
            usage_mode=mode,
            credential_id=credential_id,
            key_version=key_version,
            model=event["model"],
            **{name: event.get(name) for name in ("endpoint_id", "feature", "session_id", "prompt_id")},
            outcome=event["outcome"],
            usage_source=event.get("usage_source", "reported"),
            tokens=_sum(tokens for _, tokens in parts),
            cost=cost,
            billed=0 if mode == "byo" or is_mismatch else cost or 0,
            is_mismatch=is_mismatch,
            reservation_id=event.get("reservation_id"),
        )

    def estimate(self, model: str, input_tokens: int, output: int, at: datetime) -> int | None:
        """The most that a request may cost: its input in whichever class is dearest."""
        costs = []
        for name in CLASSES[:-1]:
            tokens = dict.fromkeys((*CLASSES, "web_search_requests"), 0)
            tokens[name], tokens["output"] = input_tokens, output
            costs.append(self.cost([(model, tokens)], {}, at))
        return None if None in costs else max(it for it in costs if it is not None)


def parts_of(model: str, usage: Mapping[str, Any]) -> Parts:
    """The message, and the compactions that its counters leave out."""
    further = [it for it in usage.get("iterations", ()) if it["type"] == "compaction"]
    return [(model, _tokens(usage)), *((it.get("model", model), _tokens(it)) for it in further)]


def _tokens(usage: Mapping[str, Any]) -> Tokens:
    written, split = usage.get("cache_creation_input_tokens", 0), usage.get("cache_creation", {})
    short, long = split.get("ephemeral_5m_input_tokens", 0), split.get("ephemeral_1h_input_tokens", 0)
    return {
        "uncached_input": usage.get("input_tokens", 0),
        "cache_write_5m": short
        + max(0, written - short - long),  # what has no time to live told: the shorter
        "cache_write_1h": long,
        "cache_read": usage.get("cache_read_input_tokens", 0),
        "output": usage.get("output_tokens", 0),
        "web_search_requests": usage.get("server_tool_use", {}).get("web_search_requests", 0),
    }


def _sum(several: Iterable[Tokens]) -> Tokens:
    total: Tokens = {}
    for tokens in several:
        for name, number in tokens.items():
            total[name] = total.get(name, 0) + number
    return total


def _listed_cost(model: str, tokens: Tokens, usage: Mapping[str, Any]) -> int | None:
    listed = LIST.get(model) or LIST.get(_without_date(model))
    if listed is None:
        return None
    prompt = sum(tokens[name] for name in CLASSES[:-1])
    rates = listed.longer if listed.longer and prompt > LONG_PROMPT else listed.rates
    usd = sum(
        (Decimal(rate) * tokens[name] for name, rate in zip(CLASSES, rates.split(), strict=True)), Decimal(0)
    )
    if usage.get("service_tier") == "batch":
        usd /= 2
    elif usage.get("speed") == "fast" and listed.has_fast:
        usd *= 2
    if usage.get("inference_geo") == "us" and listed.has_geography:
        usd *= Decimal("1.1")
    return _whole(usd * _PER_TOKEN) + tokens["web_search_requests"] * _SEARCH


def _entry(entries: Mapping[str, Mapping[str, Any]], model: str) -> Mapping[str, Any] | None:
    """The id itself, then without its date, then the longest beginning."""
    for name in (model, _without_date(model)):
        if name in entries:
            return entries[name]
    beginnings = [name for name in entries if name.endswith("*") and model.startswith(name[:-1])]
    return entries[max(beginnings, key=len)] if beginnings else None


def _own_cost(entry: Mapping[str, Any], tokens: Tokens) -> int | None:
    """Without a price of a class that was used, the whole has none."""
    total = Decimal(0)
    for name in CLASSES:
        rate = entry["usd_per_million_tokens"].get(name)
        if tokens[name]:
            if rate is None:
                return None
            total += Decimal(rate) * tokens[name] * _PER_TOKEN
    searches, fee = tokens["web_search_requests"], entry.get("usd_per_thousand_web_searches")
    if searches:
        if fee is None:
            return None
        total += Decimal(fee) * searches * 10**9
    return _whole(total)


def _without_date(model: str) -> str:
    name, _, last = model.rpartition("-")
    return name if len(last) == 8 and last.isdecimal() else model


def _whole(pico: Decimal) -> int:
    assert pico == pico.to_integral_value()
    return int(pico)
