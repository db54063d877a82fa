"""Rates in whole pico-USD, and what they depend on: prompt length, tier, speed, geography, date.

A price is looked up, never worked out of something else while a request waits: every combination of
tier, speed and geography that is known lies ready. What is not known is priced as standard, and says so
by a flag.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import product

from app.usage.records import ModelUsage, TokenUsage, UsageFlag

BATCH = "batch"
FAST = "fast"
UNITED_STATES = "us"

# What the provider says where the standard price holds. None: it said nothing.
STANDARD_TIERS = (None, "standard")
STANDARD_SPEEDS = (None, "standard")
STANDARD_GEOGRAPHIES = (None, "global", "not_available")
_KNOWN_TIERS = (*STANDARD_TIERS, "priority", BATCH)
_KNOWN_SPEEDS = (*STANDARD_SPEEDS, FAST)
_KNOWN_GEOGRAPHIES = (*STANDARD_GEOGRAPHIES, UNITED_STATES)

Conditions = tuple[str | None, str | None, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Pico-USD per token by class, and per web search. None: that class has no known price."""

    uncached_input: int | None
    cache_write_5m: int | None
    cache_write_1h: int | None
    cache_read: int | None
    output: int | None
    web_search: int | None

    def cost(self, tokens: TokenUsage) -> int | None:
        """None where tokens were used of a class without a price."""
        try:
            return (
                tokens.uncached_input * self.uncached_input  # type: ignore[operator]  # None raises, see below
                + tokens.cache_write_5m * self.cache_write_5m  # type: ignore[operator]
                + tokens.cache_write_1h * self.cache_write_1h  # type: ignore[operator]
                + tokens.cache_read * self.cache_read  # type: ignore[operator]
                + tokens.output * self.output  # type: ignore[operator]
                + tokens.web_search_requests * self.web_search  # type: ignore[operator]
            )
        except TypeError:
            return self._cost_by_class(tokens)

    def scaled(self, numerator: int, denominator: int) -> "Rates":
        """Token prices times a factor; web searches are neither discounted nor raised.

        Raises:
            ValueError: the result is finer than a pico-USD.
        """
        return Rates(
            uncached_input=_scaled(self.uncached_input, numerator, denominator),
            cache_write_5m=_scaled(self.cache_write_5m, numerator, denominator),
            cache_write_1h=_scaled(self.cache_write_1h, numerator, denominator),
            cache_read=_scaled(self.cache_read, numerator, denominator),
            output=_scaled(self.output, numerator, denominator),
            web_search=self.web_search,
        )

    def _cost_by_class(self, tokens: TokenUsage) -> int | None:
        total = 0
        for count, rate in (
            (tokens.uncached_input, self.uncached_input),
            (tokens.cache_write_5m, self.cache_write_5m),
            (tokens.cache_write_1h, self.cache_write_1h),
            (tokens.cache_read, self.cache_read),
            (tokens.output, self.output),
            (tokens.web_search_requests, self.web_search),
        ):
            if not count:
                continue
            if rate is None:
                return None
            total += count * rate
        return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """Rates of every token of a request whose prompt is longer than `longer_than`."""

    longer_than: int
    rates: Rates


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What holds under one combination of conditions: bands, the longest prompt first, and what was assumed."""

    bands: tuple[Band, ...]
    flags: UsageFlag = UsageFlag.NONE

    def cost(self, tokens: TokenUsage) -> int | None:
        bands = self.bands
        if len(bands) > 1:
            prompt = tokens.prompt
            for band in bands:
                if prompt > band.longer_than:
                    return band.rates.cost(tokens)
        return bands[-1].rates.cost(tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatedPrice:
    """The price of a model from an instant on, inclusive, until the next one."""

    starts_at: datetime
    terms: Mapping[Conditions, Terms]

    @classmethod
    def of(
        cls,
        starts_at: datetime,
        standard: tuple[Band, ...],
        *,
        batch: tuple[Band, ...] | None = None,
        fast: tuple[Band, ...] | None = None,
        has_geography: bool,
    ) -> "DatedPrice":
        """Every combination of known conditions.

        Args:
            starts_at: from when on.
            standard: bands of the standard price, the longest prompt first.
            batch: bands of batches; half of the standard price where none are given.
            fast: bands of fast mode; where none are given, its price is not known.
            has_geography: the model can be kept in the United States, for a tenth more.
        """
        halved = batch or _scaled_bands(standard, 1, 2)
        terms: dict[Conditions, Terms] = {}
        for tier, speed, geography in product(_KNOWN_TIERS, _KNOWN_SPEEDS, _KNOWN_GEOGRAPHIES):
            flags = UsageFlag.TIER_ASSUMED if tier == "priority" else UsageFlag.NONE
            bands = halved if tier == BATCH else standard
            if speed == FAST and fast is not None and tier != BATCH:
                bands = fast
            elif speed == FAST:
                flags |= UsageFlag.SPEED_ASSUMED
            if geography == UNITED_STATES and has_geography:
                bands = _scaled_bands(bands, 11, 10)
            elif geography == UNITED_STATES:
                flags |= UsageFlag.GEOGRAPHY_ASSUMED
            terms[tier, speed, geography] = Terms(bands=bands, flags=flags)
        return cls(starts_at=starts_at, terms=terms)

    def under(self, part: ModelUsage) -> Terms:
        """The terms for what the provider answered. A value that nobody knows is taken as standard, and flagged."""
        found = self.terms.get((part.service_tier, part.speed, part.inference_geo))
        if found is not None:
            return found
        tier, speed, geography = part.service_tier, part.speed, part.inference_geo
        unknown = UsageFlag.NONE
        if tier not in _KNOWN_TIERS:
            tier, unknown = None, unknown | UsageFlag.TIER_ASSUMED
        if speed not in _KNOWN_SPEEDS:
            speed, unknown = None, unknown | UsageFlag.SPEED_ASSUMED
        if geography not in _KNOWN_GEOGRAPHIES:
            geography, unknown = None, unknown | UsageFlag.GEOGRAPHY_ASSUMED
        known = self.terms[tier, speed, geography]
        return Terms(bands=known.bands, flags=known.flags | unknown)


def _scaled(rate: int | None, numerator: int, denominator: int) -> int | None:
    if rate is None:
        return None
    scaled, rest = divmod(rate * numerator, denominator)
    if rest:
        raise ValueError("finer than a pico-USD")
    return scaled


def _scaled_bands(bands: tuple[Band, ...], numerator: int, denominator: int) -> tuple[Band, ...]:
    return tuple(
        Band(longer_than=band.longer_than, rates=band.rates.scaled(numerator, denominator)) for band in bands
    )
