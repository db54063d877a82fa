"""Spend limits: what they count, over which period, and when a threshold is crossed. Pure, in whole pico-USD."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from uuid import UUID

from app.usage.records import FURTHEST_BACK, ModelUsage, TokenUsage
from app.usage_mode.modes import UsageMode

# The start of the only period of a limit that has no end.
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)

_HUNDRED = 100
_HUNDREDTHS = 100 * _HUNDRED


class LimitPeriod(StrEnum):
    """How long a limit counts before it begins anew. In UTC."""

    DAY = "day"
    MONTH = "month"
    TOTAL = "total"

    def start_of(self, instant: datetime) -> datetime:
        """When the period that holds this instant began."""
        if self is LimitPeriod.TOTAL:
            return BEGINNING
        day = instant.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return day if self is LimitPeriod.DAY else day.replace(day=1)

    def end_of(self, start: datetime) -> datetime | None:
        """When the period that began then ends; None for what has no end."""
        match self:
            case LimitPeriod.DAY:
                return start + timedelta(days=1)
            case LimitPeriod.MONTH:
                return (start + timedelta(days=32)).replace(day=1)
        return None


class LimitMode(StrEnum):
    """Whose spend is counted: by the usage mode that an event keeps for good."""

    MANAGED = "managed"
    BYO = "byo"
    ANY = "any"

    def covers(self, mode: UsageMode) -> bool:
        return self is LimitMode.ANY or self.value == mode.value


class Enforcement(StrEnum):
    """Whether a limit refuses reservations or only tells."""

    BLOCK = "block"
    NOTIFY = "notify"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spender:
    """Who spends: what a scope is compared with. None: not told."""

    mode: UsageMode
    model: str | None = None
    endpoint_id: str | None = None
    feature: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitScope:
    """What a limit counts. None: whatever it is."""

    mode: LimitMode = LimitMode.MANAGED
    model: str | None = None
    endpoint_id: str | None = None
    feature: str | None = None

    def covers(self, spender: Spender) -> bool:
        return (
            self.mode.covers(spender.mode)
            and self.model in (None, spender.model)
            and self.endpoint_id in (None, spender.endpoint_id)
            and self.feature in (None, spender.feature)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitTerms:
    """What an admin sets. `thresholds` are whole percents of the amount, ascending."""

    name: str
    amount: int
    period: LimitPeriod
    scope: LimitScope
    enforcement: Enforcement
    thresholds: tuple[int, ...]

    def counts_alike(self, other: "LimitTerms") -> bool:
        """Whether both count the same events into the same periods."""
        return (self.period, self.scope) == (other.period, other.scope)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendLimit:
    """A limit. It knows all spend of the periods that began at `counts_from` or later."""

    id: UUID
    terms: LimitTerms
    counts_from: datetime
    revision: int
    created_at: datetime
    created_by: str
    updated_at: datetime

    def counts(self, spender: Spender, instant: datetime) -> bool:
        return instant >= self.counts_from and self.terms.scope.covers(spender)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spend:
    """What a limit has counted in one period. `settled_*` come from the ledger, `reserved` from reservations.

    `unpriced` counts events without a known price: their spend is not in the sums, and not nothing.
    """

    managed: int = 0
    byo: int = 0
    reserved: int = 0
    unpriced: int = 0

    @property
    def settled(self) -> int:
        return self.managed + self.byo


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterIncrement:
    """What the counter of one limit and period gains, or is at then."""

    limit_id: UUID
    period_starts_at: datetime
    spend: Spend


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """A threshold that was reached, once in its period."""

    threshold: int
    crossed_at: datetime
    spent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitState:
    """A limit with what it has counted in the period at hand."""

    limit: SpendLimit
    period_starts_at: datetime
    spend: Spend
    crossings: tuple[Crossing, ...]
    read_at: datetime

    @property
    def period_ends_at(self) -> datetime | None:
        return self.limit.terms.period.end_of(self.period_starts_at)

    @property
    def remaining(self) -> int:
        return max(0, self.limit.terms.amount - self.spend.settled - self.spend.reserved)

    @property
    def overrun(self) -> int:
        return max(0, self.spend.settled - self.limit.terms.amount)

    @property
    def percent_used(self) -> float | None:
        """Of the amount, settled and reserved together, rounded down to a hundredth; None of an amount of nothing."""
        if self.limit.terms.amount == 0:
            return None
        return (self.spend.settled + self.spend.reserved) * _HUNDREDTHS // self.limit.terms.amount / _HUNDRED

    @property
    def projected(self) -> int | None:
        """What will be spent by the period's end if it goes on like this; None where there is no end."""
        ends_at = self.period_ends_at
        if ends_at is None:
            return None
        tick = timedelta(microseconds=1)
        elapsed = max(1, (self.read_at - self.period_starts_at) // tick)
        return self.spend.settled * ((ends_at - self.period_starts_at) // tick) // elapsed


def counts_from(period: LimitPeriod, now: datetime) -> datetime:
    """From when on a limit set now can know everything: events reach back so far, and no further."""
    return period.start_of(now - FURTHEST_BACK)


def crossed(terms: LimitTerms, *, before: int, after: int) -> Sequence[int]:
    """The thresholds that lie above `before` and not above `after`."""
    return [
        threshold
        for threshold in terms.thresholds
        if before * _HUNDRED < threshold * terms.amount <= after * _HUNDRED
    ]


def estimate(
    price: Callable[[ModelUsage], int | None], *, model: str, input_tokens: int, max_output_tokens: int
) -> int | None:
    """The most that a request may cost: all input in the class that makes it dearest, all output that it may give.

    None where a price is not known.
    """
    costs = [
        price(ModelUsage(model=model, tokens=tokens))
        for tokens in (
            TokenUsage(uncached_input=input_tokens, output=max_output_tokens),
            TokenUsage(cache_write_5m=input_tokens, output=max_output_tokens),
            TokenUsage(cache_write_1h=input_tokens, output=max_output_tokens),
            TokenUsage(cache_read=input_tokens, output=max_output_tokens),
        )
    ]
    known = [cost for cost in costs if cost is not None]
    return max(known) if len(known) == len(costs) else None
