"""Prices for usage that had none when it came: corrections, which add what the first row lacked and change nothing."""

from dataclasses import dataclass
from datetime import datetime

from app.pricing.prices import OrganizationPrices, Priced
from app.usage.records import ModelUsage, TokenUsage, UsageFlag
from app.usage_mode.modes import UsageMode


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpricedEvent:
    """An event of the ledger whose cost nobody has known so far."""

    started_at: datetime
    event_id: str
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
    """What an event costs after all, in pico-USD."""

    started_at: datetime
    event_id: str
    cost: int
    billed: int
    price_version: str
    flags: UsageFlag


def correction_of(
    event: UnpricedEvent, prices: OrganizationPrices, *, overrides_of: datetime | None = None
) -> Correction | None:
    """By the prices of its own instant; None where it has no price there, or what was used is not known well enough.

    Args:
        event: it.
        prices: of its organization.
        overrides_of: where its own instant has none, take the overrides in force at this one: they never
            start in the past by themselves, so somebody has to ask for it.
    """
    used = ModelUsage(
        model=event.model,
        tokens=event.tokens,
        service_tier=event.service_tier,
        speed=event.speed,
        inference_geo=event.inference_geo,
    )
    # As ingestion does: what starts ahead of our clock counts from when it came.
    at = min(event.started_at, event.ingested_at)
    # The ledger keeps the sum of a request's parts: not the model of each, nor the length of its prompt.
    if UsageFlag.COMPACTION_ADDED in event.flags and (
        UsageFlag.MIXED_MODELS in event.flags or prices.has_bands(used, at=at)
    ):
        return None
    priced = prices.price([used], at=at, is_compatible_endpoint=event.is_compatible_endpoint)
    if priced.cost is None and overrides_of is not None:
        priced = prices.price([used], at=overrides_of, is_compatible_endpoint=True)
    return _correction(event, priced)


def _correction(event: UnpricedEvent, priced: Priced) -> Correction | None:
    if priced.cost is None or priced.price_version is None:
        return None
    is_billed = event.mode is UsageMode.MANAGED and UsageFlag.MODE_MISMATCH not in event.flags
    return Correction(
        started_at=event.started_at,
        event_id=event.event_id,
        cost=priced.cost,
        billed=priced.cost if is_billed else 0,
        price_version=priced.price_version,
        flags=event.flags | priced.flags,
    )
