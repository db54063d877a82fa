"""An oracle that recomputes ledger rows from requests and responses: mode, key version, tokens, cost, billed amount.

Plain Python with whole pico-USD. It shares only the API's field names with the service: prices are written out here as
the provider publishes them, and rows are computed one by one.
"""

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

PICO = Decimal(10) ** 12
CLASSES = ("uncached_input", "cache_write_5m", "cache_write_1h", "cache_read", "output")
_PER_TOKEN = Decimal(10) ** 6  # from USD per million tokens to pico-USD per token
_SEARCH = 10**10  # 10 USD per thousand

# Refusals before any output are free, except for these categories since this day.
BILLED_REFUSALS = ("bio", "frontier_llm", "reasoning_extraction")
REFUSALS_BILLED_SINCE = datetime(2026, 9, 24, tzinfo=UTC)

Tokens = dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Work of one model. `calls` are what is billed: they add up to `tokens`, or to its searches if it is free."""

    model: str
    tokens: Tokens
    calls: Sequence[Tokens]
    is_free: bool = False


Parts = list[Part]


@dataclass(frozen=True, kw_only=True)
class Listed:
    """Published USD per million tokens in the order of CLASSES. `longer` applies to prompts above 100,000 tokens."""

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
class ModeChange:
    """A usage mode change."""

    at: datetime
    mode: str
    credential_id: str | None


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """A price override list: the entries from the request, the rest from the response."""

    number: int
    effective_from: datetime
    set_at: datetime
    entries: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """The expected ledger row of one model's part of an event. A request counts in part 0."""

    event_id: str
    part: int
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
    service_tier: str | None
    speed: str | None
    inference_geo: str | None
    tokens: Tokens
    cost: int | None
    billed: int
    is_mismatch: bool
    reservation_id: str | None
    flags: Sequence[str] = ()  # from the ledger: only the reports that group by them are compared
    sign: int = 1  # -1: cancels the row of an event that another event corrects

    @property
    def requests(self) -> int:
        return self.sign if self.part == 0 else 0

    @property
    def unpriced(self) -> int:
        return self.sign if self.cost is None else 0

    def cancelled(self, at: datetime) -> "Row":
        """Return the row that cancels this one."""
        return replace(
            self,
            sign=-1,
            ingested_at=at,
            tokens={name: -number for name, number in self.tokens.items()},
            cost=None if self.cost is None else -self.cost,
            billed=-self.billed,
        )

    @property
    def counts(self) -> int:
        """The amount that counts against spend limits: billed for managed usage, else the estimated cost."""
        return self.billed if self.usage_mode == "managed" else self.cost or 0


@dataclass(kw_only=True)
class OrganizationState:
    """The known state of one organization: usage mode changes, price overrides, key versions, accepted events."""

    mode_changes: list[ModeChange] = field(default_factory=list)
    overrides: dict[int, Overrides] = field(default_factory=dict)
    versions: dict[str, list[tuple[datetime, int]]] = field(default_factory=dict)
    events: dict[str, dict[str, Any]] = field(default_factory=dict)

    def mode_at(self, instant: datetime) -> ModeChange | None:
        """Return the active mode change. None if no mode was ever set, so that it is managed."""
        return max((it for it in self.mode_changes if it.at <= instant), key=lambda it: it.at, default=None)

    def version_at(self, credential_id: str, instant: datetime) -> int | None:
        begun = [it for it in self.versions.get(credential_id, []) if it[0] <= instant]
        return max(begun)[1] if begun else None

    def prices_at(self, instant: datetime) -> Overrides | None:
        """Return the active override list. A list that was replaced before its start never becomes active."""
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
        for part in parts:
            if not any(any(call.values()) for call in part.calls) and part.is_free:
                continue
            entry = None if own is None else _entry(own.entries, part.model)
            if entry is None:
                costs = [_listed_cost(part.model, call, usage) for call in part.calls]
            else:
                costs = [_own_cost(entry, call) for call in part.calls]
            for one in costs:
                if one is None:
                    return None
                total += one
        return total

    def rows(
        self, event: Mapping[str, Any], ingested_at: datetime, corrected: Row | None = None
    ) -> list[Row]:
        """Return one row per model, the one of the model that served the request first.

        A correction is rated by the clock of the event that it corrects, and settles its reservation.
        """
        started_at = datetime.fromisoformat(event["started_at"]).astimezone(UTC)
        at = min(started_at, ingested_at if corrected is None else corrected.ingested_at)
        change = self.mode_at(at)
        mode = "managed" if change is None else change.mode
        credential_id, key_version = event.get("credential_id"), event.get("key_version")
        is_mismatch = mode == "managed" and credential_id is not None
        if mode == "byo" and credential_id is None and change is not None:
            credential_id = change.credential_id
        if credential_id is not None and key_version is None:
            key_version = self.version_at(credential_id, at)
        parts = parts_of(event, at)
        models = list(dict.fromkeys(part.model for part in parts))
        of_models = [[part for part in parts if part.model == model] for model in models]
        costs = [self.cost(of_model, event["usage"], at) for of_model in of_models]
        dimensions: dict[str, Any] = {
            **{name: event.get(name) for name in ("endpoint_id", "feature", "session_id", "prompt_id")},
            **{name: _text(event["usage"].get(name)) for name in ("service_tier", "speed", "inference_geo")},
        }
        row = Row(
            event_id=event["event_id"],
            part=0,
            started_at=started_at,
            ingested_at=ingested_at,
            usage_mode=mode,
            credential_id=credential_id,
            key_version=key_version,
            model=event["model"],
            **dimensions,
            outcome=event["outcome"],
            usage_source=event.get("usage_source", "reported"),
            tokens={},
            cost=None,
            billed=0,
            is_mismatch=is_mismatch,
            reservation_id=(corrected and corrected.reservation_id) or event.get("reservation_id"),
            sign=1,
        )
        return [
            replace(
                row,
                part=number,
                model=of_model[0].model,
                tokens=_sum(part.tokens for part in of_model),
                cost=cost,
                billed=0 if mode == "byo" or is_mismatch else cost or 0,
            )
            for number, (of_model, cost) in enumerate(zip(of_models, costs, strict=True))
        ]

    def estimate(self, requested: Mapping[str, Any], at: datetime) -> int | None:
        """Return the maximum cost of a request: with all input in the most expensive class.

        The provider may serve the request at the standard speed and anywhere, whatever it asked for.
        """
        costs = []
        speeds, places = ({requested.get(name), None} for name in ("speed", "inference_geo"))
        for name, speed, place in itertools.product(CLASSES[:-1], speeds, places):
            tokens = dict.fromkeys((*CLASSES, "web_search_requests"), 0)
            tokens[name], tokens["output"] = requested["input_tokens"], requested["max_output_tokens"]
            tokens["web_search_requests"] = requested.get("max_web_searches", 0)
            conditions = {
                "speed": speed,
                "inference_geo": place,
                "service_tier": requested.get("service_tier"),
            }
            part = Part(model=requested["model"], tokens=tokens, calls=[tokens])
            costs.append(self.cost([part], conditions, at))
        return None if None in costs else max(it for it in costs if it is not None)


def parts_of(event: Mapping[str, Any], at: datetime) -> Parts:
    """Return the message, and the iterations that are billed on top of its counters."""
    model, usage, total = event["model"], event["usage"], _tokens(event["usage"])
    iterations = usage.get("iterations") if isinstance(usage.get("iterations"), list) else None
    of_type: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for it in iterations or ():
        of_type[it["type"]].append(it)
    own = of_type["fallback_message"] or of_type["message"]
    is_category_billed = event.get("refusal_category") in BILLED_REFUSALS and at >= REFUSALS_BILLED_SINCE
    is_declined = bool(of_type["fallback_message"]) or event.get("stop_reason") == "refusal"
    calls = [_tokens(it) | {"web_search_requests": 0} for it in own]
    if calls:
        calls[0]["web_search_requests"] = total["web_search_requests"]
    is_free = is_declined and not total["output"] and not is_category_billed
    if is_free:
        calls = [dict.fromkeys(CLASSES, 0) | {"web_search_requests": total["web_search_requests"]}]
    elif _sum(calls) != total:
        calls = [total]
    message = Part(model=_served(model, own), tokens=total, calls=calls, is_free=is_free)
    billed = [(it, model) for it in of_type["compaction"]]
    billed += [(it, "unknown") for it in of_type["advisor_message"]]
    if of_type["fallback_message"]:
        attempts = [it for it in of_type["message"] if it.get("output_tokens") or is_category_billed]
        billed += [(it, model) for it in attempts]
    order = [id(it) for it in iterations or ()]
    billed.sort(key=lambda pair: order.index(id(pair[0])))
    added = [(it.get("model", unnamed), _tokens(it)) for it, unnamed in billed]
    return [
        message,
        *(Part(model=name, tokens=tokens, calls=[tokens]) for name, tokens in added if any(tokens.values())),
    ]


def _served(model: str, own: Sequence[Mapping[str, Any]]) -> str:
    """Return the model that the iterations of the message name. A snapshot of the event's model is the same model."""
    names = [it["model"] for it in own if "model" in it]
    is_clear = own and own[-1]["type"] == "fallback_message" and "model" in own[-1]
    if not names or not (is_clear or len(set(names)) == 1):
        return model
    return model if _without_date(names[-1]) == _without_date(model) else names[-1]


def _text(value: Any) -> str | None:
    """Return a text of the usage object. Other values are left out."""
    return value if isinstance(value, str) else None


def _tokens(usage: Mapping[str, Any]) -> Tokens:
    written, split = usage.get("cache_creation_input_tokens", 0), usage.get("cache_creation", {})
    short, long = split.get("ephemeral_5m_input_tokens", 0), split.get("ephemeral_1h_input_tokens", 0)
    return {
        "uncached_input": usage.get("input_tokens", 0),
        "cache_write_5m": short + max(0, written - short - long),  # no time to live known: the shorter one
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
    """Find an entry by the exact id, else by another spelling of the model, else by the pattern with the most text."""
    if model in entries:
        return entries[model]
    ids = [name for name in entries if "*" not in name and bare_model(name) == bare_model(model)]
    if ids:
        return entries[max(ids, key=lambda name: (name == bare_model(name), name.endswith("-latest"), name))]
    patterns = sorted(name for name in entries if "*" in name and _matches(name, model))
    return entries[max(patterns, key=lambda name: len(name.replace("*", "")))] if patterns else None


def _matches(pattern: str, model: str) -> bool:
    text = ".*".join(map(re.escape, pattern.split("*")))
    return any(re.fullmatch(text, spelling) for spelling in (model, bare_model(model)))


def bare_model(model: str) -> str:
    """Remove a snapshot date or `-latest`: ids with the same rest mean one model."""
    return re.sub(r"^(.+)-(\d{8}|latest)$", r"\1", model, count=1, flags=re.ASCII)


def _own_cost(entry: Mapping[str, Any], tokens: Tokens) -> int | None:
    """Return the cost; None if a used class has no price."""
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
