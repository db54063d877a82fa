"""What usage costs an organization: its own prices before the list's. Pure: where prices come from is others' business.

A model without a price costs None: never 0, never a guess.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

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
from app.usage.records import ModelUsage, UsageFlag

_SNAPSHOT_DIGITS = 8  # claude-haiku-4-5-20251001


class PriceList:
    """Prices of models that hold for every organization.

    Args:
        version: names the list for good; stored with every row that it priced.
        models: by the model's id, the newest price first.
    """

    def __init__(self, version: str, models: Mapping[str, Sequence[DatedPrice]]) -> None:
        self.version = version
        self.models = {name: tuple(prices) for name, prices in models.items()}

    def terms(self, part: ModelUsage, at: datetime) -> Terms | None:
        """None: the model has no known price at that instant."""
        dated = self.models.get(part.model)
        if dated is None:
            dated = self.models.get(without_snapshot(part.model), ())
        for price in dated:
            if at >= price.starts_at:
                return price.under(part)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceOverride:
    """An organization's own price of a model. `model` is an id, or ends in `*` and stands for all that begin so.

    It is taken as it is, under whatever tier, speed and geography; rows where these are not standard are flagged.
    """

    model: str
    rates: Rates

    @property
    def is_beginning(self) -> bool:
        return self.model.endswith("*")


class OverrideList:
    """All overrides of an organization from an instant on, until a list with a higher number is in force.

    Numbers count the lists in the order in which they were set, so a list that is set today also takes the
    place of one that was set earlier for a later day; where it counts from an even later one itself, the
    repository leaves out the one replaced. None starts in the past, so no past price ever changes.
    """

    __slots__ = (
        "_exact",
        "_prefixes",
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
        self._exact = {one.model: one.rates for one in self.overrides if not one.is_beginning}
        beginnings = [(one.model[:-1], one.rates) for one in self.overrides if one.is_beginning]
        self._prefixes = sorted(beginnings, key=lambda prefix: -len(prefix[0]))

    def rates(self, model: str) -> Rates | None:
        """The id itself before its dated snapshots, before the longest beginning."""
        found = self._exact.get(model) or self._exact.get(without_snapshot(model))
        if found is not None:
            return found
        return next((rates for prefix, rates in self._prefixes if model.startswith(prefix)), None)


def in_force_at(lists: Iterable[OverrideList], at: datetime) -> OverrideList | None:
    """The last one set among those that have begun."""
    return max((one for one in lists if one.effective_from <= at), key=lambda one: one.number, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """What a request costs, in pico-USD. `cost` and `price_version` are None where no price is known."""

    cost: int | None
    price_version: str | None
    flags: UsageFlag


_UNPRICED = Priced(cost=None, price_version=None, flags=UsageFlag.NONE)


class OrganizationPrices:
    """Prices as one organization pays them: its own before the list's."""

    def __init__(self, listed: PriceList, overrides: Iterable[OverrideList] = ()) -> None:
        self._listed = listed
        self._overrides = tuple(overrides)

    def price(
        self, parts: Sequence[ModelUsage], *, at: datetime, is_compatible_endpoint: bool = False
    ) -> Priced:
        """What the parts of one request cost together, at prices of an instant.

        Args:
            parts: the message itself, then what its counters leave out: compaction, work of other models.
            at: when it started.
            is_compatible_endpoint: not Anthropic's own, so Anthropic's prices say nothing: only overrides count.
        """
        if len(parts) == 1:
            return self._price(parts[0], at, is_compatible_endpoint=is_compatible_endpoint)
        priced = [self._price(part, at, is_compatible_endpoint=is_compatible_endpoint) for part in parts]
        flags = UsageFlag.NONE
        for part, one in zip(parts, priced, strict=True):
            flags |= one.flags
            if part.model != parts[0].model:
                flags |= UsageFlag.MIXED_MODELS
            elif part is not parts[0]:
                flags |= UsageFlag.COMPACTION_ADDED
        costs = [one.cost for one in priced if one.cost is not None]
        total = sum(costs)
        if len(costs) < len(parts) or total > LARGEST_AMOUNT_PICO:
            return Priced(cost=None, price_version=None, flags=flags)
        versions = dict.fromkeys(one.price_version for one in priced if one.price_version is not None)
        return Priced(cost=total, price_version=" ".join(versions), flags=flags)

    def has_bands(self, part: ModelUsage, *, at: datetime) -> bool:
        """Whether the price depends on the length of a prompt, so that a sum of prompts cannot be priced."""
        listed = self._listed.terms(part, at)
        return listed is not None and len(listed.bands) > 1

    def _price(self, part: ModelUsage, at: datetime, *, is_compatible_endpoint: bool) -> Priced:
        own = self._override_of(part, at) if self._overrides else None
        if own is not None:
            version, terms = own
        elif is_compatible_endpoint:
            return _UNPRICED
        else:
            listed = self._listed.terms(part, at)
            if listed is None:
                return _UNPRICED
            version, terms = self._listed.version, listed
        cost = terms.cost(part.tokens)
        # What no row of the ledger can hold is left unpriced rather than spoil the batch that it came in.
        if cost is None or cost > LARGEST_AMOUNT_PICO:
            return _UNPRICED
        return Priced(cost=cost, price_version=version, flags=terms.flags)

    def _override_of(self, part: ModelUsage, at: datetime) -> tuple[str, Terms] | None:
        in_force = in_force_at(self._overrides, at)
        rates = None if in_force is None else in_force.rates(part.model)
        if in_force is None or rates is None:
            return None
        flags = UsageFlag.NONE
        if part.service_tier not in STANDARD_TIERS:
            flags |= UsageFlag.TIER_ASSUMED
        if part.speed not in STANDARD_SPEEDS:
            flags |= UsageFlag.SPEED_ASSUMED
        if part.inference_geo not in STANDARD_GEOGRAPHIES:
            flags |= UsageFlag.GEOGRAPHY_ASSUMED
        return in_force.version, Terms(bands=(Band(longer_than=-1, rates=rates),), flags=flags)


def without_snapshot(model: str) -> str:
    """`claude-haiku-4-5` of `claude-haiku-4-5-20251001`; any other text as it is."""
    name, dash, digits = model.rpartition("-")
    is_snapshot = dash and len(digits) == _SNAPSHOT_DIGITS and digits.isascii() and digits.isdigit()
    return name if is_snapshot else model
