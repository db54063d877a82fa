"""Computes corrections: prices for events that had no known price when they were ingested."""

from dataclasses import dataclass
from datetime import datetime
from functools import partial

from app.pricing.prices import UNPRICED, OrganizationPrices, Priced
from app.usage_events.kept_usage import KeptUsage
from app.usage_events.priced_event import price_event
from app.usage_events.records import ModelUsage, TokenUsage, UsageFlag
from app.usage_mode.modes import UsageMode


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpricedEvent:
    """A ledger row, one part of an event, without a known cost."""

    started_at: datetime
    event_id: str
    part: int
    ingested_at: datetime
    mode: UsageMode
    model: str
    service_tier: str | None
    speed: str | None
    inference_geo: str | None
    tokens: TokenUsage
    flags: UsageFlag
    is_compatible_endpoint: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """The cost of a part that was unpriced, in pico-USD. It becomes an additional ledger row."""

    started_at: datetime
    event_id: str
    part: int
    cost: int
    billed: int
    price_version: str
    flags: UsageFlag


def correction_for(
    event: UnpricedEvent,
    prices: OrganizationPrices,
    *,
    kept: KeptUsage | None = None,
    overrides_at: datetime | None = None,
) -> Correction | None:
    """Price a part of an event with the prices at its start.

    Returns None if the part still has no price, or if the service does not have enough detail about the usage.

    Args:
        event: the unpriced part.
        prices: the prices of its organization.
        kept: the usage object as it was sent; None if it was not kept.
        overrides_at: if the event has no price at its start, use the overrides that are active at this time.
            Overrides never start in the past, so the operator must request this.
    """
    price_at = _from_row if kept is None else partial(_from_usage_object, kept)
    # Like ingestion: if an event starts after the server's clock, its ingestion time counts.
    at = min(event.started_at, event.ingested_at)
    priced = price_at(event, prices, at=at, is_compatible_endpoint=event.is_compatible_endpoint)
    if priced.cost is None and overrides_at is not None:
        priced = price_at(event, prices, at=overrides_at, is_compatible_endpoint=True)
    return _correction(event, priced)


def _from_usage_object(
    kept: KeptUsage,
    event: UnpricedEvent,
    prices: OrganizationPrices,
    *,
    at: datetime,
    is_compatible_endpoint: bool,
) -> Priced:
    """Read the usage object again. It has every call, so each one is priced by its own model and prompt length."""
    found = price_event(kept.read(), prices, at=at, is_compatible_endpoint=is_compatible_endpoint)
    part = next((part for part in found if part.model == event.model), None)
    if part is None:
        return UNPRICED
    return Priced(cost=part.cost, price_version=part.price_version, flags=UsageFlag(part.flags))


def _from_row(
    event: UnpricedEvent, prices: OrganizationPrices, *, at: datetime, is_compatible_endpoint: bool
) -> Priced:
    """Price the tokens of the row: the total of a request's parts, without model and prompt length of each part."""
    used = ModelUsage(
        model=event.model,
        tokens=event.tokens,
        service_tier=event.service_tier,
        speed=event.speed,
        inference_geo=event.inference_geo,
    )
    is_total = UsageFlag.COMPACTION_ADDED in event.flags
    if is_total and (UsageFlag.MIXED_MODELS in event.flags or prices.has_bands(used, at=at)):
        return UNPRICED
    return prices.price([used], at=at, is_compatible_endpoint=is_compatible_endpoint)


def _correction(event: UnpricedEvent, priced: Priced) -> Correction | None:
    if priced.cost is None or priced.price_version is None:
        return None
    is_billed = event.mode is UsageMode.MANAGED and UsageFlag.MODE_MISMATCH not in event.flags
    return Correction(
        started_at=event.started_at,
        event_id=event.event_id,
        part=event.part,
        cost=priced.cost,
        billed=priced.cost if is_billed else 0,
        price_version=priced.price_version,
        flags=event.flags | priced.flags,
    )
