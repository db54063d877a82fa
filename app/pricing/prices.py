"""Computes what usage costs an organization: its price overrides take precedence over the price list. No I/O.

The cost of a model without a price is `None`, never 0 and never a guess.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from app.core.model_identity import model_identity, without_snapshot_date
from app.core.money import LARGEST_AMOUNT_PICO
from app.pricing.rates import (
    STANDARD_GEOGRAPHIES,
    STANDARD_SPEEDS,
    STANDARD_TIERS,
    Band,
    DatedPrice,
    Rates,
    Terms,
)
from app.usage_events.records import ModelUsage, TokenUsage, UsageFlag


class PriceList:
    """The model prices that apply to all organizations.

    Args:
        version: permanent name of the list. It is stored with every row that the list priced.
        models: the prices by model id, the newest first.
    """

    def __init__(self, version: str, models: Mapping[str, Sequence[DatedPrice]]) -> None:
        self.version = version
        self.models = {name: tuple(prices) for name, prices in models.items()}

    def terms(self, part: ModelUsage, at: datetime) -> Terms | None:
        """Return the terms of a model at a time; None if it has no known price."""
        dated = self.models.get(part.model)
        if dated is None:
            undated = without_snapshot_date(part.model)
            # An id of the list with a date is a snapshot already.
            dated = self.models.get(undated, ()) if model_identity(undated) == undated else ()
        for price in dated:
            if at >= price.starts_at:
                return price.terms_for(part)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceOverride:
    """An organization's own price of a model. `model` is an id, or a pattern in which `*` matches any text.

    The price applies to every tier, speed and geography. Rows with non-standard values are flagged.
    """

    model: str
    rates: Rates

    @property
    def is_pattern(self) -> bool:
        return "*" in self.model


class OverrideList:
    """All overrides of an organization from `effective_from` until a list with a higher number becomes active.

    Lists are numbered in the order in which they are set. A new list therefore also replaces an earlier list that is
    scheduled for later. If the new list starts even later, the repository omits the replaced one. No list starts in
    the past, so past prices never change.
    """

    __slots__ = (
        "_by_identity",
        "_exact",
        "_patterns",
        "effective_from",
        "number",
        "overrides",
        "set_at",
        "set_by",
        "version",
    )

    def __init__(
        self,
        *,
        number: int,
        effective_from: datetime,
        overrides: Iterable[PriceOverride],
        set_at: datetime,
        set_by: str,
    ) -> None:
        self.number = number
        self.effective_from = effective_from
        self.overrides = tuple(overrides)
        self.set_at = set_at
        self.set_by = set_by
        self.version = f"override-{number}"
        exact = [one for one in self.overrides if not one.is_pattern]
        self._exact = {one.model: one.rates for one in exact}
        # The last one of several spellings counts: the bare id, else `-latest`, else the newest snapshot.
        self._by_identity = {
            model_identity(one.model): one.rates for one in sorted(exact, key=lambda one: _rank(one.model))
        }
        patterns = [one for one in self.overrides if one.is_pattern]
        self._patterns = sorted(patterns, key=lambda one: (one.model.count("*") - len(one.model), one.model))

    def rates(self, model: str) -> Rates | None:
        """Return the rates of a model: by its exact id, else by another spelling of it, else by the most specific pattern."""
        found = self._exact.get(model)
        if found is not None or not self.overrides:
            return found
        identity = model_identity(model)
        found = self._by_identity.get(identity)
        if found is not None:
            return found
        return next(
            (
                one.rates
                for one in self._patterns
                if matches_pattern(one.model, model) or matches_pattern(one.model, identity)
            ),
            None,
        )


def _rank(model: str) -> tuple[bool, str]:
    """Sort snapshots by date, then `-latest`, then the bare id."""
    return model == model_identity(model), model


def matches_pattern(pattern: str, model: str) -> bool:
    """Return whether a model id matches a pattern in which each `*` matches any text, also for none."""
    first, *others = pattern.split("*")
    if not others:
        return model == pattern
    *middle, last = others
    if not model.startswith(first) or not model.endswith(last) or len(model) < len(first) + len(last):
        return False
    at, end = len(first), len(model) - len(last)
    for part in middle:
        found = model.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def active_list_at(lists: Iterable[OverrideList], at: datetime) -> OverrideList | None:
    """Return the last list that was set, among those that have started."""
    return max((one for one in lists if one.effective_from <= at), key=lambda one: one.number, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """The cost of a request in pico-USD. `cost` and `price_version` are `None` if no price is known."""

    cost: int | None
    price_version: str | None
    flags: UsageFlag


UNPRICED = Priced(cost=None, price_version=None, flags=UsageFlag.NONE)
_FREE = Priced(cost=0, price_version=None, flags=UsageFlag.NONE)


def total_price(priced: Sequence[Priced]) -> Priced:
    """Return the sum of several prices. It is unknown if one of them is unknown, or if it does not fit a ledger row."""
    if len(priced) == 1:
        return priced[0]
    flags = UsageFlag.NONE
    for one in priced:
        flags |= one.flags
    costs = [one.cost for one in priced if one.cost is not None]
    total = sum(costs)
    if len(costs) < len(priced) or total > LARGEST_AMOUNT_PICO:
        return Priced(cost=None, price_version=None, flags=flags)
    versions = dict.fromkeys(one.price_version for one in priced if one.price_version is not None)
    return Priced(cost=total, price_version=" ".join(versions) or None, flags=flags)


class OrganizationPrices:
    """The prices of one organization: its overrides, else the price list."""

    def __init__(self, price_list: PriceList, overrides: Iterable[OverrideList] = ()) -> None:
        self._listed = price_list
        self._overrides = tuple(overrides)

    def price(
        self, parts: Sequence[ModelUsage], *, at: datetime, is_compatible_endpoint: bool = False
    ) -> Priced:
        """Return the total cost of the parts of one request. If a part has no price, neither has the request.

        Args:
            parts: the message, then the parts that its counters do not include, such as compaction by other models.
            at: when the request started.
            is_compatible_endpoint: the endpoint is not Anthropic's, so list prices do not apply, only overrides.
        """
        return total_price(self.price_each(parts, at=at, is_compatible_endpoint=is_compatible_endpoint))

    def price_each(
        self, parts: Sequence[ModelUsage], *, at: datetime, is_compatible_endpoint: bool = False
    ) -> Sequence[Priced]:
        """Return the cost of each part. The arguments are those of `price`."""
        return [self._price(part, at, is_compatible_endpoint=is_compatible_endpoint) for part in parts]

    def has_bands(self, part: ModelUsage, *, at: datetime) -> bool:
        """Return whether the price depends on the prompt length, so that a total over several prompts cannot be priced."""
        price_list = self._listed.terms(part, at)
        return price_list is not None and len(price_list.bands) > 1

    def _price(self, part: ModelUsage, at: datetime, *, is_compatible_endpoint: bool) -> Priced:
        if part.is_free:
            if not part.tokens.web_search_requests:
                return _FREE
            # The provider does not bill the tokens. Searches are billed separately.
            part = replace(part, tokens=TokenUsage(web_search_requests=part.tokens.web_search_requests))
        own = self._override_terms(part, at) if self._overrides else None
        if own is not None:
            version, terms = own
        elif is_compatible_endpoint:
            return UNPRICED
        else:
            price_list = self._listed.terms(part, at)
            if price_list is None:
                return UNPRICED
            version, terms = self._listed.version, price_list
        cost = terms.cost(part.tokens, part.calls)
        # A cost that does not fit a ledger row is left unpriced, so that the rest of the batch is not affected.
        if cost is None or cost > LARGEST_AMOUNT_PICO:
            return UNPRICED
        flags = terms.flags
        if not part.calls and terms.assumes_band(part.tokens):  # combining flags takes longer than the price
            flags |= UsageFlag.BAND_ASSUMED
        return Priced(cost=cost, price_version=version, flags=flags)

    def _override_terms(self, part: ModelUsage, at: datetime) -> tuple[str, Terms] | None:
        active_list = active_list_at(self._overrides, at)
        rates = None if active_list is None else active_list.rates(part.model)
        if active_list is None or rates is None:
            return None
        flags = UsageFlag.NONE
        if part.service_tier not in STANDARD_TIERS:
            flags |= UsageFlag.TIER_ASSUMED
        if part.speed not in STANDARD_SPEEDS:
            flags |= UsageFlag.SPEED_ASSUMED
        if part.inference_geo not in STANDARD_GEOGRAPHIES:
            flags |= UsageFlag.GEOGRAPHY_ASSUMED
        return active_list.version, Terms(bands=(Band(longer_than=-1, rates=rates),), flags=flags)
