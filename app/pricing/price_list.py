"""Compiles Anthropic's prices from the package genai-prices, with some additions, into our own exact table.

The package is used only as data and only at start; its updater is off (docs/explanation/adr/0017-price-list.md). The
package itself resolves dates and variants, so that our interpretation cannot differ from its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal

import genai_prices
from genai_prices.data import providers
from genai_prices.types import (
    ClauseEquals,
    ClauseOr,
    ModelInfo,
    ModelPrice,
    StartDateConstraint,
    TieredPrices,
)

from app.core.money import to_pico
from app.pricing.price_corrections import (
    MODELS_WITHOUT_GEOGRAPHY,
    REVISION,
    SAME_PRICE_MODELS,
    WEB_SEARCH_PER_THOUSAND,
    Prices,
    corrected,
    correction_starts,
)
from app.pricing.prices import PriceList
from app.pricing.rates import BATCH, FAST, Band, DatedPrice, Rates

_ALWAYS = datetime.min.replace(tzinfo=UTC)

# The package's keys for each of our price classes, the more specific key first.
_KEYS: Mapping[str, tuple[str, ...]] = {
    "uncached_input": ("input_mtok",),
    "cache_write_5m": ("cache_write_5m_mtok", "cache_write_mtok"),
    "cache_write_1h": ("cache_write_1h_mtok",),
    "cache_read": ("cache_read_mtok",),
    "output": ("output_mtok",),
}
_WEB_SEARCH_KEY = "web_searches_kcount"
_USED_KEYS = frozenset({*(key for keys in _KEYS.values() for key in keys), _WEB_SEARCH_KEY})


class UnsupportedPriceList(Exception):
    """The package contains prices that this version of the service cannot convert exactly."""


def load_price_list() -> PriceList:
    """Compile the price list from the installed package, without network access.

    Raises:
        UnsupportedPriceList: the package contains prices that cannot be converted exactly.
    """
    anthropic = next(provider for provider in providers if provider.id == "anthropic")
    models: dict[str, Sequence[DatedPrice]] = {}
    by_id: dict[str, Sequence[DatedPrice]] = {}
    for model in anthropic.models:
        by_id[model.id] = tuple(_dated_prices(model))
        for name in _model_ids(model):
            models[name] = by_id[model.id]
    for twin, model_id in SAME_PRICE_MODELS.items():
        models.setdefault(twin, by_id[model_id])
    return PriceList(f"genai-prices-{genai_prices.__version__}+{REVISION}", models)


def _model_ids(model: ModelInfo) -> Iterator[str]:
    """Yield the ids of exactly this model. The package's broader patterns are for other providers' names."""
    yield model.id
    yield model.id.removesuffix("-latest")
    clauses = model.match.or_ if isinstance(model.match, ClauseOr) else [model.match]
    yield from (clause.equals for clause in clauses if isinstance(clause, ClauseEquals))


def _dated_prices(model: ModelInfo) -> Iterator[DatedPrice]:
    """Yield the model's prices, the newest first."""
    has_geography = not model.id.startswith(MODELS_WITHOUT_GEOGRAPHY)
    for start in sorted(_price_starts(model), reverse=True):
        standard = _resolve(model, start, {})
        batch, fast = _resolve(model, start, {"processing": BATCH}), _resolve(model, start, {"speed": FAST})
        yield DatedPrice.of(
            start,
            _bands(standard),
            batch=None if batch == standard else _bands(batch),
            fast=None if fast == standard else _bands(fast),
            has_geography=has_geography,
        )


def _price_starts(model: ModelInfo) -> set[datetime]:
    starts = {_ALWAYS}
    conditional = () if isinstance(model.prices, ModelPrice) else model.prices
    for dated in (*conditional, *(model.price_variants or ())):
        if dated.constraint is None:
            continue
        if not isinstance(dated.constraint, StartDateConstraint):
            raise UnsupportedPriceList("a price has a condition other than a start date")
        starts.add(_midnight(dated.constraint.start_date))
    return starts.union(correction_starts(model.id))


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), tzinfo=UTC)


def _resolve(model: ModelInfo, at: datetime, context: Mapping[str, str]) -> Prices:
    """Return the package's prices at a given time, with our corrections."""
    found = model.get_prices(at, context)
    prices = {key: price for key, price in vars(found).items() if price is not None}
    if not prices.keys() <= _USED_KEYS:
        raise UnsupportedPriceList("a price has an unknown price class")
    return corrected(model.id, prices, at)


def _bands(prices: Prices) -> tuple[Band, ...]:
    """Return the bands, the longest prompt first. The last band applies to every prompt."""
    starts = {-1}
    for price in prices.values():
        if isinstance(price, TieredPrices):
            starts.update(tier.start for tier in price.tiers)
    return tuple(
        Band(longer_than=start, rates=_rates(prices, start)) for start in sorted(starts, reverse=True)
    )


def _rates(prices: Prices, longer_than: int) -> Rates:
    per_token = {
        name: next((_per_token(prices[key], longer_than) for key in keys if key in prices), None)
        for name, keys in _KEYS.items()
    }
    web_search = prices.get(_WEB_SEARCH_KEY, WEB_SEARCH_PER_THOUSAND)
    return Rates(**per_token, web_search=_exact_pico(_price_for_prompt(web_search, longer_than), 1_000))


def _per_token(price: Decimal | TieredPrices, longer_than: int) -> int:
    return _exact_pico(_price_for_prompt(price, longer_than), 1_000_000)


def _price_for_prompt(price: Decimal | TieredPrices, longer_than: int) -> Decimal:
    if isinstance(price, Decimal):
        return price
    return next((tier.price for tier in reversed(price.tiers) if longer_than >= tier.start), price.base)


def _exact_pico(usd: Decimal, per: int) -> int:
    pico, rest = divmod(to_pico(usd), per)
    if rest:
        raise UnsupportedPriceList("a price is not a whole number of pico-USD")
    return pico
