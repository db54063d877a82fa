"""Monthly statements: the billed lines of a month, and the estimated cost of BYO usage. No I/O.

A closed statement never changes. If late events or corrections change the ledger of a closed month, the first open
month after it gets adjustment lines: the difference between the ledger and the total of closed statements
for that month. So late usage is billed exactly once. A model stays in the line in which it was closed.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from operator import attrgetter
from typing import Final, TypeAlias

from app.billing.month import BillingMonth
from app.core.money import round_to_cent
from app.usage_events.records import TokenUsage
from app.usage_mode.modes import UsageMode

# How many models of one mode and month have their own line. All further ones have one line together: an organization's own
# gateway may name another model in each response.
MAX_MODELS: Final = 500
# The name that they have together. No event has an empty model.
OTHER_MODELS: Final = ""
_NO_TOKENS = TokenUsage()


class LineType(StrEnum):
    """The kind of a statement line."""

    SUBSCRIPTION = "subscription"
    ENDPOINT_OVERAGE = "endpoint_overage"
    MANAGED_USAGE = "managed_usage"
    ADJUSTMENT = "adjustment"
    BYO_USAGE = "byo_usage"  # informational: never billed, and not in `lines` of the API


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """The terms of a subscription. Amounts are in pico-USD. A change applies to all open months."""

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
class DayCount:
    """How many endpoints an organization had on a day in UTC."""

    day: date
    endpoints: int

    @property
    def revision(self) -> int:
        """The count is the whole resource, so it is also its revision. 0 is left for a day without a count."""
        return self.endpoints + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageTotals:
    """Totals of ledger rows. `estimated` and `billed` are exact amounts in pico-USD.

    `estimated` does not include requests without a known price; `unpriced_requests` counts them.
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


NO_USAGE = UsageTotals()


@dataclass(frozen=True, slots=True)
class UsageKey:
    """The dimensions by which usage is aggregated. `model` may be `OTHER_MODELS`."""

    month: BillingMonth
    mode: UsageMode
    model: str

    @property
    def place(self) -> tuple[str, bool, str]:
        """Sorts the lines of a month: the line of all other models is the last one of its mode."""
        return self.mode, self.model == OTHER_MODELS, self.model


_place = attrgetter("place")
MonthTotals: TypeAlias = Mapping[UsageKey, UsageTotals]


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementLine:
    """A line of a statement, in pico-USD. `amount` is `exact` rounded to a cent, once, half to even.

    For usage, `quantity` counts tokens of all classes. Their prices differ, so usage has no unit price.
    """

    type: LineType
    quantity: int
    exact: int
    amount: int
    unit_price: int | None = None
    mode: UsageMode | None = None
    model: str | None = None
    adjusts_month: BillingMonth | None = None
    usage: UsageTotals = NO_USAGE

    @classmethod
    def for_fee(cls, kind: LineType, *, quantity: int, unit_price: int) -> "StatementLine":
        exact = quantity * unit_price
        return cls(
            type=kind, quantity=quantity, unit_price=unit_price, exact=exact, amount=round_to_cent(exact)
        )

    @classmethod
    def for_usage(
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
    """The statement of a month. `closed_at` is `None` while it is open."""

    month: BillingMonth
    closed_at: datetime | None
    all_lines: Sequence[StatementLine]

    @property
    def lines(self) -> Sequence[StatementLine]:
        """The billed lines."""
        return [line for line in self.all_lines if line.type is not LineType.BYO_USAGE]

    @property
    def byo(self) -> Sequence[StatementLine]:
        """Usage that the organization pays its provider for."""
        return [line for line in self.all_lines if line.type is LineType.BYO_USAGE]

    @property
    def unpriced(self) -> Sequence[StatementLine]:
        """Managed usage with requests whose price is not known yet. Those requests are not billed yet."""
        return [line for line in self.lines if line.usage.unpriced_requests]

    @property
    def total(self) -> int:
        return sum(line.amount for line in self.all_lines)


def adjusted_by(month: BillingMonth, closed: AbstractSet[BillingMonth]) -> Sequence[BillingMonth]:
    """The consecutive closed months before this open month, oldest first: those that it adjusts."""
    found = []
    while (month := month.previous) in closed:
        found.append(month)
    return found[::-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementInputs:
    """The data from which open statements are computed, from one snapshot.

    Args:
        subscription: the terms; `None` without a subscription.
        closed: months whose statement is closed.
        retained_months: months whose totals the ledger still has. Other months get no adjustments.
        peaks: the highest endpoint count of each month.
        ledger: the current totals of the ledger, by month.
        closed_totals: for each month, the total of what closed statements contain: its own lines and adjustments.
    """

    subscription: Subscription | None
    closed: AbstractSet[BillingMonth]
    retained_months: AbstractSet[BillingMonth]
    peaks: Mapping[BillingMonth, int]
    ledger: Mapping[BillingMonth, MonthTotals]
    closed_totals: Mapping[BillingMonth, MonthTotals]

    def statement_of(self, month: BillingMonth) -> Generator[None, None, Statement]:
        """The current statement of an open month. Yields after each line: years may have thousands."""
        usage: list[StatementLine] = []
        for key, totals in self._usage_of(month):
            usage.append(StatementLine.for_usage(key, totals))
            yield
        for earlier in adjusted_by(month, self.closed):
            for key, difference in self._adjustments(earlier):
                if difference != NO_USAGE:
                    usage.append(StatementLine.for_usage(key, difference, adjusts_month=key.month))
                yield
        billed = [line for line in usage if line.mode is UsageMode.MANAGED]
        byo = [line for line in usage if line.mode is UsageMode.BYO]
        return Statement(month=month, closed_at=None, all_lines=(*self._fees(month), *billed, *byo))

    def estimated(self, month: BillingMonth) -> int:
        """The estimated cost of all usage of the month, in both modes."""
        return sum(usage.estimated for _, usage in self._usage_of(month))

    def _fees(self, month: BillingMonth) -> Iterable[StatementLine]:
        current = self.subscription
        if current is None:
            return
        yield StatementLine.for_fee(LineType.SUBSCRIPTION, quantity=1, unit_price=current.monthly_fee)
        over = self.peaks.get(month, 0) - current.included_endpoints
        if over > 0:
            yield StatementLine.for_fee(
                LineType.ENDPOINT_OVERAGE, quantity=over, unit_price=current.endpoint_overage_fee
            )

    def _usage_of(self, month: BillingMonth) -> Iterator[tuple[UsageKey, UsageTotals]]:
        totals = self.ledger.get(month, {})
        for key in sorted(totals, key=_place):
            # Without usage: all its events were corrected, and now stand under another model or mode.
            if totals[key] != NO_USAGE:
                yield key, totals[key]

    def _adjustments(self, month: BillingMonth) -> Iterator[tuple[UsageKey, UsageTotals]]:
        """By how much each total of a closed month has changed, which may be nothing."""
        if month not in self.retained_months:
            return
        current, closed = self.ledger.get(month, {}), self.closed_totals.get(month, {})
        for key in sorted(current.keys() | closed.keys(), key=_place):
            yield key, current.get(key, NO_USAGE) - closed.get(key, NO_USAGE)
