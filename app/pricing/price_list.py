"""Compiles Anthropic's prices, out of the package genai-prices and what that lacks, into our own exact table.

The package is data to us: its updater stays off, and its arithmetic is asked only here, at start
(docs/adr/0017-price-list.md). It resolves dates and variants itself, so both readings cannot differ.
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
from app.pricing.prices import PriceList
from app.pricing.rates import BATCH, FAST, Band, DatedPrice, Rates

# Counts the changes of what stands below; part of the version that rows are stored with.
_REVISION = 1

_ALWAYS = datetime.min.replace(tzinfo=UTC)

# The package's keys by our classes, the narrower first.
_KEYS: Mapping[str, tuple[str, ...]] = {
    "uncached_input": ("input_mtok",),
    "cache_write_5m": ("cache_write_5m_mtok", "cache_write_mtok"),
    "cache_write_1h": ("cache_write_1h_mtok",),
    "cache_read": ("cache_read_mtok",),
    "output": ("output_mtok",),
}
_WEB_SEARCH_KEY = "web_searches_kcount"
_USED_KEYS = frozenset({*(key for keys in _KEYS.values() for key in keys), _WEB_SEARCH_KEY})
# The provider has one price of a search, for every model; the package omits it for old ones.
_WEB_SEARCH_PER_THOUSAND = Decimal(10)

# Restricted twins that the package lacks: the same model at the same price.
_TWINS: Mapping[str, str] = {
    "claude-mythos-5": "claude-fable-5",
    "claude-mythos-5-1": "claude-fable-5-1",
}
# A cache read of Sonnet 5.5 cost twice as much until this day; the package knows today's price only.
_DEARER_READ_MODEL = "claude-sonnet-5-5"
_DEARER_READ_UNTIL = date(2026, 10, 7)
_DEARER_READ = Decimal("0.2")
# Older than Opus 4.6 and Sonnet 4.6: they cannot be kept in a geography.
_WITHOUT_GEOGRAPHY = (
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


class PriceListRefused(Exception):
    """The package holds something that this version of the service cannot read exactly."""


def load_price_list() -> PriceList:
    """The list in force, from what is installed. No connection is opened.

    Raises:
        PriceListRefused: an upgrade of the package brought what we cannot price exactly.
    """
    anthropic = next(provider for provider in providers if provider.id == "anthropic")
    models: dict[str, Sequence[DatedPrice]] = {}
    by_id: dict[str, Sequence[DatedPrice]] = {}
    for model in anthropic.models:
        by_id[model.id] = tuple(_dated(model))
        for name in _names(model):
            models[name] = by_id[model.id]
    for twin, model_id in _TWINS.items():
        models.setdefault(twin, by_id[model_id])
    return PriceList(f"genai-prices-{genai_prices.__version__}+{_REVISION}", models)


def _names(model: ModelInfo) -> Iterator[str]:
    """Ids that mean exactly this model. The package's looser patterns are for other providers' spellings."""
    yield model.id
    yield model.id.removesuffix("-latest")
    clauses = model.match.or_ if isinstance(model.match, ClauseOr) else [model.match]
    yield from (clause.equals for clause in clauses if isinstance(clause, ClauseEquals))


def _dated(model: ModelInfo) -> Iterator[DatedPrice]:
    """The newest first."""
    has_geography = not model.id.startswith(_WITHOUT_GEOGRAPHY)
    for start in sorted(_starts(model), reverse=True):
        standard = _resolved(model, start, {})
        batch, fast = _resolved(model, start, {"processing": BATCH}), _resolved(model, start, {"speed": FAST})
        yield DatedPrice.of(
            start,
            _bands(standard),
            batch=None if batch == standard else _bands(batch),
            fast=None if fast == standard else _bands(fast),
            has_geography=has_geography,
        )


def _starts(model: ModelInfo) -> set[datetime]:
    starts = {_ALWAYS}
    conditional = () if isinstance(model.prices, ModelPrice) else model.prices
    for dated in (*conditional, *(model.price_variants or ())):
        if dated.constraint is None:
            continue
        if not isinstance(dated.constraint, StartDateConstraint):
            raise PriceListRefused("a price that depends on something else than a date")
        starts.add(_midnight(dated.constraint.start_date))
    if model.id == _DEARER_READ_MODEL:
        starts.add(_midnight(_DEARER_READ_UNTIL))
    return starts


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), tzinfo=UTC)


Prices = Mapping[str, Decimal | TieredPrices]


def _resolved(model: ModelInfo, at: datetime, context: Mapping[str, str]) -> Prices:
    """What the package says at an instant, by its own rules, mended where it is known to be wrong."""
    found = model.get_prices(at, context)
    prices = {key: price for key, price in vars(found).items() if price is not None}
    if not prices.keys() <= _USED_KEYS:
        raise PriceListRefused("a class of price that we do not count")
    if model.id == _DEARER_READ_MODEL and at < _midnight(_DEARER_READ_UNTIL):
        prices["cache_read_mtok"] = _DEARER_READ
    return prices


def _bands(prices: Prices) -> tuple[Band, ...]:
    """The longest prompt first; the last one takes every prompt."""
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
    web_search = prices.get(_WEB_SEARCH_KEY, _WEB_SEARCH_PER_THOUSAND)
    return Rates(**per_token, web_search=_exactly(_at(web_search, longer_than), 1_000))


def _per_token(price: Decimal | TieredPrices, longer_than: int) -> int:
    return _exactly(_at(price, longer_than), 1_000_000)


def _at(price: Decimal | TieredPrices, longer_than: int) -> Decimal:
    if isinstance(price, Decimal):
        return price
    return next((tier.price for tier in reversed(price.tiers) if longer_than >= tier.start), price.base)


def _exactly(usd: Decimal, per: int) -> int:
    pico, rest = divmod(to_pico(usd), per)
    if rest:
        raise PriceListRefused("a price finer than a pico-USD")
    return pico
