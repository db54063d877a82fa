"""Spend limits: what they count, in which period, and when a threshold is crossed. No I/O; amounts in pico-USD."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import product
from uuid import UUID

from app.core.model_identity import model_identity
from app.usage_events.records import MAX_EVENT_AGE, ModelUsage, TokenUsage
from app.usage_mode.modes import UsageMode

# The start of the only period of a `total` limit.
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)

# The price classes of input. A cache write for one hour is usually the most expensive one.
_INPUT_CLASSES = ("uncached_input", "cache_write_5m", "cache_write_1h", "cache_read")

_HUNDRED = 100
_HUNDREDTHS = 100 * _HUNDRED


class LimitPeriod(StrEnum):
    """After which time a limit starts again from zero, in UTC. `total` never does."""

    DAY = "day"
    MONTH = "month"
    TOTAL = "total"

    def start_of(self, instant: datetime) -> datetime:
        """The start of the period that contains this instant."""
        if self is LimitPeriod.TOTAL:
            return BEGINNING
        day = instant.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return day if self is LimitPeriod.DAY else day.replace(day=1)

    def end_of(self, start: datetime) -> datetime | None:
        """The end of the period that starts then, exclusive; `None` for `total`."""
        match self:
            case LimitPeriod.DAY:
                return start + timedelta(days=1)
            case LimitPeriod.MONTH:
                return (start + timedelta(days=32)).replace(day=1)
        return None


class LimitMode(StrEnum):
    """Which spend a limit counts, by the usage mode that the ledger records for each event."""

    MANAGED = "managed"
    BYO = "byo"
    ANY = "any"

    def covers(self, mode: UsageMode) -> bool:
        return self is LimitMode.ANY or self.value == mode.value


class Enforcement(StrEnum):
    """Whether a limit rejects reservations or only reports crossed thresholds."""

    BLOCK = "block"
    NOTIFY = "notify"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spender:
    """The dimensions of one spend, which scopes are matched against. `None`: not given."""

    mode: UsageMode
    model: str | None = None
    endpoint_id: str | None = None
    feature: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitScope:
    """Which spend a limit counts. `None`: any value. `model` also means its dated snapshots, and the reverse."""

    mode: LimitMode = LimitMode.MANAGED
    model: str | None = None
    endpoint_id: str | None = None
    feature: str | None = None

    def covers(self, spender: Spender) -> bool:
        return (
            self.mode.covers(spender.mode)
            and self._covers_model(spender.model)
            and self.endpoint_id in (None, spender.endpoint_id)
            and self.feature in (None, spender.feature)
        )

    def _covers_model(self, model: str | None) -> bool:
        if self.model is None or self.model == model:
            return True
        return model is not None and model_identity(model) == model_identity(self.model)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitTerms:
    """The settings of a limit. `thresholds` are whole percentages of the amount, ascending."""

    name: str
    amount: int
    period: LimitPeriod
    scope: LimitScope
    enforcement: Enforcement
    thresholds: tuple[int, ...]

    def counts_the_same(self, other: "LimitTerms") -> bool:
        """Whether both count the same events into the same periods."""
        return (self.period, self.scope) == (other.period, other.scope)

    def has_same_thresholds(self, other: "LimitTerms") -> bool:
        """Whether a threshold that was crossed under the other terms is crossed under these too."""
        return self.counts_the_same(other) and self.amount == other.amount


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendLimit:
    """A spend limit. It counts spend from `counts_from` on, which is the start of a period."""

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
    """What a limit has counted in one period. `managed` and `byo` come from the ledger, `reserved` from reservations.

    `unpriced` is the number of requests without a known price. The amounts do not include them.
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
    """An increment of the counter of one limit and period, or its new value."""

    limit_id: UUID
    period_starts_at: datetime
    spend: Spend


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """A threshold that was crossed. It is recorded once in each period, and again after the limit's amount changed.

    `amount` is the limit's amount at that time; `None` if an earlier release recorded the crossing.
    """

    threshold: int
    crossed_at: datetime
    spent: int
    amount: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitState:
    """A limit and what it has counted in the current period."""

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
        """Settled and reserved spend as a percentage of the amount, rounded down to 0.01; `None` if the amount is 0."""
        if self.limit.terms.amount == 0:
            return None
        return (self.spend.settled + self.spend.reserved) * _HUNDREDTHS // self.limit.terms.amount / _HUNDRED

    @property
    def projected(self) -> int | None:
        """The spend at the end of the period if the rate so far continues; `None` for `total`."""
        ends_at = self.period_ends_at
        if ends_at is None:
            return None
        microsecond = timedelta(microseconds=1)
        elapsed = max(1, (self.read_at - self.period_starts_at) // microsecond)
        return self.spend.settled * ((ends_at - self.period_starts_at) // microsecond) // elapsed


def counts_from(period: LimitPeriod, now: datetime) -> datetime:
    """The start of the earliest period that a limit set now must count: older events are no longer accepted."""
    return period.start_of(now - MAX_EVENT_AGE)


def crossed_thresholds(terms: LimitTerms, *, before: int, after: int) -> Sequence[int]:
    """The thresholds above `before` and not above `after`, both amounts in pico-USD."""
    return [
        threshold
        for threshold in terms.thresholds
        if before * _HUNDRED < threshold * terms.amount <= after * _HUNDRED
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedUsage:
    """The most that a request may use, with the conditions that its price depends on. `None`: the standard price."""

    model: str
    input_tokens: int
    max_output_tokens: int
    max_web_searches: int = 0
    service_tier: str | None = None
    speed: str | None = None
    inference_geo: str | None = None


def estimate(price: Callable[[ModelUsage], int | None], expected: ExpectedUsage) -> int | None:
    """The maximum cost of a request, in pico-USD: all input in the most expensive token class, and all output tokens.

    The provider may respond at the standard speed and without a restricted geography although the request asked for
    them, so the most expensive of these prices counts. `None` if a price is not known.
    """
    most = 0
    for speed, geography, token_class in product(
        {expected.speed, None}, {expected.inference_geo, None}, _INPUT_CLASSES
    ):
        tokens = TokenUsage(
            **{token_class: expected.input_tokens},
            output=expected.max_output_tokens,
            web_search_requests=expected.max_web_searches,
        )
        cost = price(
            ModelUsage(
                model=expected.model,
                tokens=tokens,
                service_tier=expected.service_tier,
                speed=speed,
                inference_geo=geography,
            )
        )
        if cost is None:
            return None
        most = max(most, cost)
    return most
