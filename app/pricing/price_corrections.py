"""Where the pinned price package is wrong or silent: what applies instead, from when until when, and who says so.

Increment REVISION with every change here. It is part of the price version that is stored with rows.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from decimal import Decimal

from genai_prices.types import TieredPrices

REVISION = 2

Prices = Mapping[str, Decimal | TieredPrices]


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceCorrection:
    """A correction of one model's prices, from midnight UTC of `since` (inclusive) to that of `until` (exclusive).

    `prices` replace the package's, by its own keys. `has_one_band` means that prompts of any length cost the same.
    """

    model: str
    source: str
    since: date | None = None
    until: date | None = None
    prices: Prices = field(default_factory=dict)
    has_one_band: bool = False

    def applies(self, model: str, at: datetime) -> bool:
        return (
            model == self.model
            and (self.since is None or _midnight(self.since) <= at)
            and (self.until is None or at < _midnight(self.until))
        )

    def apply(self, prices: Prices) -> Prices:
        corrected = {**prices, **self.prices}
        if not self.has_one_band:
            return corrected
        return {
            key: price.base if isinstance(price, TieredPrices) else price for key, price in corrected.items()
        }


CORRECTIONS = (
    PriceCorrection(
        model="claude-sonnet-5-5",
        until=date(2026, 10, 7),
        prices={"cache_read_mtok": Decimal("0.2")},
        source="The provider's price change of 2026-10-07; the package contains only the price after it.",
    ),
    PriceCorrection(
        model="claude-sonnet-4-5",
        since=date(2026, 4, 30),
        has_one_band=True,
        source="platform.claude.com/docs/en/about-claude/pricing, long context: the beta with higher prices above"
        " 200,000 tokens ended on 2026-04-30. The package keeps them.",
    ),
)

# Models with restricted access that the package lacks, and the models whose prices they have (LiteLLM, the provider).
SAME_PRICE_MODELS: Mapping[str, str] = {
    "claude-mythos-5": "claude-fable-5",
    "claude-mythos-5-1": "claude-fable-5-1",
}
# The provider charges the same price per search for all models. The package omits it for old models.
# platform.claude.com/docs/en/about-claude/pricing, web search.
WEB_SEARCH_PER_THOUSAND = Decimal(10)
# Models before Opus 4.6 and Sonnet 4.6 cannot be restricted to a geography; the package does not know geographies.
# platform.claude.com/docs/en/manage-claude/data-residency.
MODELS_WITHOUT_GEOGRAPHY = (
    "claude-2",
    "claude-v1",
    "claude-3-",
    "claude-opus-4-0",
    "claude-opus-4-1",
    "claude-opus-4-5",
    "claude-sonnet-4-0",
    "claude-sonnet-4-5",
    "claude-haiku-4-5",
)


def corrected(model: str, prices: Prices, at: datetime) -> Prices:
    """Return a model's prices with the corrections that apply at an instant."""
    for one in CORRECTIONS:
        if one.applies(model, at):
            prices = one.apply(prices)
    return prices


def correction_starts(model: str) -> Iterator[datetime]:
    """Yield the instants at which the model's corrections begin or end."""
    for one in CORRECTIONS:
        if one.model == model:
            yield from (_midnight(day) for day in (one.since, one.until) if day is not None)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), tzinfo=UTC)
