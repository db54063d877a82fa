"""Computes statements independently of the service, from the inserted rows, with `Decimal`."""

from collections import defaultdict
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

from app.billing.month import BillingMonth

Line = tuple[str, str | None, str, str | None]
_PICO_PER_USD = Decimal(10) ** 12


def cents(usd: Decimal) -> str:
    return format(usd.quantize(Decimal("0.01"), rounding=ROUND_HALF_EVEN) + 0, "f")


@dataclass
class StatementOracle:
    """Has the rows, the terms and the endpoint counts, and keeps the lines of closed months."""

    fee: Decimal | None = None
    included: int = 0
    overage: Decimal = Decimal(0)
    rows: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[tuple[BillingMonth, int], int] = field(default_factory=dict)
    closed_lines: dict[BillingMonth, list[Line]] = field(default_factory=dict)
    rows_in_closed_statements: set[int] = field(default_factory=set)  # indexes of `rows`

    def lines(self, month: BillingMonth) -> list[Line]:
        """The current lines of an open month, or the stored lines of a closed one."""
        if month in self.closed_lines:
            return self.closed_lines[month]
        return [*self._fees(month), *self._usage(month), *self._adjustments(month)]

    def close(self, month: BillingMonth) -> list[Line]:
        if month not in self.closed_lines:
            lines = self.lines(month)
            billed_months = [month, *self._adjusted(month)]
            self.rows_in_closed_statements |= {
                n for n, row in enumerate(self.rows) if BillingMonth.of(row["started_at"]) in billed_months
            }
            self.closed_lines[month] = lines
        return self.closed_lines[month]

    def _fees(self, month: BillingMonth) -> list[Line]:
        if self.fee is None:
            return []
        lines: list[Line] = [("subscription", None, cents(self.fee), None)]
        over = max((n for (m, _), n in self.counts.items() if m == month), default=0) - self.included
        return lines + ([("endpoint_overage", None, cents(self.overage * over), None)] if over > 0 else [])

    def _usage(self, month: BillingMonth) -> list[Line]:
        totals = self._billed(month, range(len(self.rows)))
        return [("managed_usage", model, cents(usd), None) for model, usd in sorted(totals.items())]

    def _adjustments(self, month: BillingMonth) -> list[Line]:
        late = [n for n in range(len(self.rows)) if n not in self.rows_in_closed_statements]
        return [
            ("adjustment", model, cents(usd), str(adjusted_month))
            for adjusted_month in self._adjusted(month)
            for model, usd in sorted(self._billed(adjusted_month, late).items())
        ]

    def _adjusted(self, month: BillingMonth) -> list[BillingMonth]:
        adjusted: list[BillingMonth] = []
        while month.previous in self.closed_lines:
            month = month.previous
            adjusted.insert(0, month)
        return adjusted

    def _billed(self, month: BillingMonth, numbers: Any) -> dict[str, Decimal]:
        totals: dict[str, Decimal] = defaultdict(Decimal)
        for n in numbers:
            row = self.rows[n]
            if row["mode"] == "managed" and BillingMonth.of(row["started_at"]) == month:
                totals[row["model"]] += Decimal(row["billed"]) / _PICO_PER_USD
        return totals
