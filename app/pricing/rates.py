"""Rates in whole pico-USD by prompt length, tier, speed, geography and date.

The rates of all known combinations of tier, speed and geography are computed in advance, so that pricing a request is
a lookup. An unknown value is priced as standard, and the row gets a flag.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import product

from app.usage_events.records import ModelUsage, TokenUsage, UsageFlag

BATCH = "batch"
FAST = "fast"
UNITED_STATES = "us"

# The provider's values for the standard price. None: the response did not contain the field.
STANDARD_TIERS = (None, "standard")
STANDARD_SPEEDS = (None, "standard")
STANDARD_GEOGRAPHIES = (None, "global", "not_available")
_KNOWN_TIERS = (*STANDARD_TIERS, "priority", BATCH)
_KNOWN_SPEEDS = (*STANDARD_SPEEDS, FAST)
_KNOWN_GEOGRAPHIES = (*STANDARD_GEOGRAPHIES, UNITED_STATES)

Conditions = tuple[str | None, str | None, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Pico-USD per token by class, and per web search. `None` means that the class has no known price."""

    uncached_input: int | None
    cache_write_5m: int | None
    cache_write_1h: int | None
    cache_read: int | None
    output: int | None
    web_search: int | None

    def cost(self, tokens: TokenUsage) -> int | None:
        """Return the cost in pico-USD; None if the request used a class without a price."""
        if (
            self.uncached_input is None
            or self.cache_write_5m is None
            or self.cache_write_1h is None
            or self.cache_read is None
            or self.output is None
            or self.web_search is None
        ):
            return self._cost_by_class(tokens)
        return (
            tokens.uncached_input * self.uncached_input
            + tokens.cache_write_5m * self.cache_write_5m
            + tokens.cache_write_1h * self.cache_write_1h
            + tokens.cache_read * self.cache_read
            + tokens.output * self.output
            + tokens.web_search_requests * self.web_search
        )

    def scaled(self, numerator: int, denominator: int) -> "Rates":
        """Multiply the token prices by a factor. The web search price does not change.

        Raises:
            ValueError: a result is not a whole number of pico-USD.
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
        """Return the cost when some classes have no price. A class that the request did not use needs none."""
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
    """The rates for all tokens of a request whose prompt has more than `longer_than` tokens."""

    longer_than: int
    rates: Rates


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The bands for one combination of conditions, the longest prompt first, and flags for assumptions."""

    bands: tuple[Band, ...]
    flags: UsageFlag = UsageFlag.NONE

    def cost(self, tokens: TokenUsage, calls: Sequence[TokenUsage] = ()) -> int | None:
        """Return the cost of the tokens. If the single calls are known, each one is priced in its own band."""
        if len(self.bands) == 1:
            return self.bands[0].rates.cost(tokens)
        if len(calls) > 1:
            costs = [self._cost_of_call(call) for call in calls]
            known = [cost for cost in costs if cost is not None]
            return sum(known) if len(known) == len(costs) else None
        return self._cost_of_call(tokens)

    def assumes_band(self, tokens: TokenUsage) -> bool:
        """Return whether tokens of possibly several calls may be in several bands: above the first boundary."""
        return len(self.bands) > 1 and tokens.prompt > self.bands[-2].longer_than

    def _cost_of_call(self, tokens: TokenUsage) -> int | None:
        prompt = tokens.prompt
        band = next((band for band in self.bands if prompt > band.longer_than), self.bands[-1])
        return band.rates.cost(tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatedPrice:
    """The price of a model from `starts_at` (inclusive) until the next price."""

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
        """Compute the terms of all combinations of known conditions.

        Args:
            starts_at: when the price starts, inclusive.
            standard: bands of the standard price, the longest prompt first.
            batch: bands of the batch price. Default: half of the standard price.
            fast: bands of fast mode. Default: the price is not known.
            has_geography: the model can be restricted to the United States, which costs 10 % more.
        """
        batch_bands = batch or _scaled_bands(standard, 1, 2)
        terms: dict[Conditions, Terms] = {}
        for tier, speed, geography in product(_KNOWN_TIERS, _KNOWN_SPEEDS, _KNOWN_GEOGRAPHIES):
            flags = UsageFlag.TIER_ASSUMED if tier == "priority" else UsageFlag.NONE
            bands = batch_bands if tier == BATCH else standard
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

    def terms_for(self, part: ModelUsage) -> Terms:
        """Return the terms for the conditions in the provider's response. Unknown values count as standard and are flagged."""
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
        raise ValueError("not a whole number of pico-USD")
    return scaled


def _scaled_bands(bands: tuple[Band, ...], numerator: int, denominator: int) -> tuple[Band, ...]:
    return tuple(
        Band(longer_than=band.longer_than, rates=band.rates.scaled(numerator, denominator)) for band in bands
    )
