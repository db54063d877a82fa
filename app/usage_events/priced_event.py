"""Prices one event and splits it by model. Ingestion, the price backfill and the corpus runner share this code."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

from app.usage_events.anthropic_usage import UsageObject, priced_parts, total_tokens
from app.usage_events.records import ModelUsage, TokenUsage, UsageFlag

_MAX_COST = 2**63 - 1
# The `stop_reason` of a response in which a model declined.
REFUSAL = "refusal"
# Since then, the provider bills refusals before any output in these categories.
# platform.claude.com/docs/en/build-with-claude/refusals-and-fallback, "Billing and rate limits".
REFUSALS_BILLED_SINCE = datetime(2026, 9, 24, tzinfo=UTC)
BILLED_REFUSAL_CATEGORIES = frozenset({"bio", "frontier_llm", "reasoning_extraction"})


class PricedRequest(Protocol):
    """The cost of a request in pico-USD. `cost` is `None` if no price is known."""

    @property
    def cost(self) -> int | None: ...
    @property
    def price_version(self) -> str | None: ...
    @property
    def flags(self) -> UsageFlag: ...


class Pricer(Protocol):
    """Prices requests for one organization."""

    def price(
        self, parts: Sequence[ModelUsage], *, at: datetime, is_compatible_endpoint: bool = False
    ) -> PricedRequest: ...

    def price_each(
        self, parts: Sequence[ModelUsage], *, at: datetime, is_compatible_endpoint: bool = False
    ) -> Sequence[PricedRequest]: ...


class ReportedUsage(Protocol):
    """What the cost of an event depends on."""

    @property
    def model(self) -> str: ...
    @property
    def usage(self) -> UsageObject: ...
    @property
    def stop_reason(self) -> str | None: ...
    @property
    def refusal_category(self) -> str | None: ...


class PricedPart(NamedTuple):
    """The work of one model on a request, which becomes one ledger row. `cost` is pico-USD, None without a price."""

    model: str
    tokens: TokenUsage
    cost: int | None
    price_version: str | None
    flags: int


def price_event(
    event: ReportedUsage, prices: Pricer, *, at: datetime, is_compatible_endpoint: bool, flags: int = 0
) -> Sequence[PricedPart]:
    """Return one part per model, the one of the model that served the request first.

    Args:
        event: the event.
        prices: the prices of its organization.
        at: the instant whose prices apply.
        is_compatible_endpoint: the endpoint is not Anthropic's, so list prices do not apply.
        flags: what was assumed when the event was decoded.
    """
    parts, assumed = priced_parts(
        event.model,
        event.usage,
        is_refusal=event.stop_reason == REFUSAL,
        is_refusal_billed=event.refusal_category in BILLED_REFUSAL_CATEGORIES and at >= REFUSALS_BILLED_SINCE,
    )
    flags |= assumed
    priced = prices.price_each(parts, at=at, is_compatible_endpoint=is_compatible_endpoint)
    if len(parts) == 1:
        return (_part(parts, priced, flags),)
    by_model: dict[str, tuple[list[ModelUsage], list[PricedRequest]]] = {}
    for part, price in zip(parts, priced, strict=True):
        of_model = by_model.setdefault(part.model, ([], []))
        of_model[0].append(part)
        of_model[1].append(price)
    return [_part(*of_model, flags) for of_model in by_model.values()]


def _part(parts: Sequence[ModelUsage], priced: Sequence[PricedRequest], flags: int) -> PricedPart:
    versions: dict[str, None] = {}
    total: int | None = 0
    for one in priced:
        flags |= int(one.flags)
        total = None if one.cost is None or total is None else total + one.cost
        if one.price_version is not None:
            versions[one.price_version] = None
    if total is not None and total > _MAX_COST:
        total = None  # no request costs that much, so the price is wrong
    version = None if total is None else " ".join(versions) or None
    return PricedPart(parts[0].model, total_tokens(parts), total, version, flags)
