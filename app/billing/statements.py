"""Statements: what a month costs, line by line, and what usage on the organization's own key would have cost.

A closed statement is frozen. What the ledger says of its month afterwards becomes adjustment lines of the
first open month after it: the difference between what the ledger says now and all that was frozen for that
month so far. So nothing is billed twice and nothing is lost, whatever comes late.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from app.billing.month import BillingMonth
from app.core.money import round_to_cent
from app.usage.records import TokenUsage
from app.usage_mode.modes import UsageMode

_NO_TOKENS = TokenUsage()


class LineType(StrEnum):
    """What a line is for."""

    SUBSCRIPTION = "subscription"
    ENDPOINT_OVERAGE = "endpoint_overage"
    MANAGED_USAGE = "managed_usage"
    ADJUSTMENT = "adjustment"
    BYO_USAGE = "byo_usage"  # informational: never billed, and no part of `lines` on the wire


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """What an organization subscribed to. Money is pico-USD. A change counts for every open month."""

    plan: str
    monthly_fee: int
    included_endpoints: int
    endpoint_overage_fee: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionRecord:
    """A subscription and its revision."""

    subscription: Subscription
    revision: int
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageTotals:
    """Sums over rows of the ledger. `estimated` and `billed` are pico-USD, exact.

    `estimated` leaves out requests without a known price; `unpriced_requests` counts them.
    """

    requests: int = 0
    unpriced_requests: int = 0
    tokens: TokenUsage = _NO_TOKENS
    estimated: int = 0
    billed: int = 0

    def __sub__(self, other: "UsageTotals") -> "UsageTotals":
        mine, theirs = self.tokens, other.tokens
        return UsageTotals(
            requests=self.requests - other.requests,
            unpriced_requests=self.unpriced_requests - other.unpriced_requests,
            tokens=TokenUsage(
                uncached_input=mine.uncached_input - theirs.uncached_input,
                cache_write_5m=mine.cache_write_5m - theirs.cache_write_5m,
                cache_write_1h=mine.cache_write_1h - theirs.cache_write_1h,
                cache_read=mine.cache_read - theirs.cache_read,
                output=mine.output - theirs.output,
                web_search_requests=mine.web_search_requests - theirs.web_search_requests,
            ),
            estimated=self.estimated - other.estimated,
            billed=self.billed - other.billed,
        )


NOTHING = UsageTotals()


@dataclass(frozen=True, slots=True, order=True)
class UsageKey:
    """What usage is summed by."""

    month: BillingMonth
    mode: UsageMode
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementLine:
    """One line. `exact` is what it comes to, `amount` the same rounded, once, half to even, to a cent.

    Of usage, `quantity` counts tokens of every class; they have many prices, so there is no unit price.
    """

    type: LineType
    quantity: int
    exact: int
    amount: int
    unit_price: int | None = None
    mode: UsageMode | None = None
    model: str | None = None
    adjusts_month: BillingMonth | None = None
    usage: UsageTotals = NOTHING

    @classmethod
    def of_fee(cls, kind: LineType, *, quantity: int, unit_price: int) -> "StatementLine":
        exact = quantity * unit_price
        return cls(
            type=kind, quantity=quantity, unit_price=unit_price, exact=exact, amount=round_to_cent(exact)
        )

    @classmethod
    def of_usage(
        cls, key: UsageKey, usage: UsageTotals, *, adjusts_month: BillingMonth | None = None
    ) -> "StatementLine":
        kind = LineType.MANAGED_USAGE if adjusts_month is None else LineType.ADJUSTMENT
        return cls(
            type=LineType.BYO_USAGE if key.mode is UsageMode.BYO else kind,
            quantity=usage.tokens.prompt + usage.tokens.output,
            exact=usage.billed,
            amount=round_to_cent(usage.billed),
            mode=key.mode,
            model=key.model,
            adjusts_month=adjusts_month,
            usage=usage,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A month's statement. `closed_at` is None while it is open."""

    month: BillingMonth
    closed_at: datetime | None
    all_lines: Sequence[StatementLine]

    @property
    def lines(self) -> Sequence[StatementLine]:
        """What is billed."""
        return [line for line in self.all_lines if line.type is not LineType.BYO_USAGE]

    @property
    def byo(self) -> Sequence[StatementLine]:
        """What the organization pays its provider for."""
        return [line for line in self.all_lines if line.type is LineType.BYO_USAGE]

    @property
    def unpriced(self) -> Sequence[StatementLine]:
        """Managed usage with requests whose price nobody knows yet: not billed, so far."""
        return [line for line in self.lines if line.usage.unpriced_requests]

    @property
    def total(self) -> int:
        return sum(line.amount for line in self.all_lines)


def adjusted_by(month: BillingMonth, closed: AbstractSet[BillingMonth]) -> Sequence[BillingMonth]:
    """The closed months whose first open month after them this is, oldest first."""
    found = []
    while (month := month.previous) in closed:
        found.append(month)
    return found[::-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """Everything that open statements are made of, as one snapshot shows it.

    Args:
        closed: months whose statement is closed.
        kept: months of which the ledger still has the rows. Of others nothing can be said any more.
        peaks: the most endpoints on any day of a month.
        ledger: what the ledger says now.
        frozen: what closed statements say of a month, its own and later ones' adjustments together.
    """

    subscription: Subscription | None
    closed: AbstractSet[BillingMonth]
    kept: AbstractSet[BillingMonth]
    peaks: Mapping[BillingMonth, int]
    ledger: Mapping[UsageKey, UsageTotals]
    frozen: Mapping[UsageKey, UsageTotals]

    def statement_of(self, month: BillingMonth) -> Statement:
        """The statement of an open month as it stands."""
        usage = [
            *(StatementLine.of_usage(key, usage) for key, usage in self._usage_of(month)),
            *(
                StatementLine.of_usage(key, difference, adjusts_month=key.month)
                for earlier in adjusted_by(month, self.closed)
                for key, difference in self._late(earlier)
            ),
        ]
        billed = [line for line in usage if line.mode is UsageMode.MANAGED]
        byo = [line for line in usage if line.mode is UsageMode.BYO]
        return Statement(month=month, closed_at=None, all_lines=(*self._fees(month), *billed, *byo))

    def estimated(self, month: BillingMonth) -> int:
        """What all usage of the month cost, whoever paid."""
        return sum(usage.estimated for _, usage in self._usage_of(month))

    def _fees(self, month: BillingMonth) -> Iterable[StatementLine]:
        held = self.subscription
        if held is None:
            return
        yield StatementLine.of_fee(LineType.SUBSCRIPTION, quantity=1, unit_price=held.monthly_fee)
        over = self.peaks.get(month, 0) - held.included_endpoints
        if over > 0:
            yield StatementLine.of_fee(
                LineType.ENDPOINT_OVERAGE, quantity=over, unit_price=held.endpoint_overage_fee
            )

    def _usage_of(self, month: BillingMonth) -> Iterator[tuple[UsageKey, UsageTotals]]:
        for key in sorted(self.ledger):
            if key.month == month:
                yield key, self.ledger[key]

    def _late(self, month: BillingMonth) -> Iterator[tuple[UsageKey, UsageTotals]]:
        if month not in self.kept:
            return
        for key in sorted(self.ledger.keys() | self.frozen.keys()):
            if key.month == month:
                difference = self.ledger.get(key, NOTHING) - self.frozen.get(key, NOTHING)
                if difference != NOTHING:
                    yield key, difference
