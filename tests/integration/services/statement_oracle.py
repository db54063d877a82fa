"""Statements worked out a second time, from the rows that were put in, in plain Decimal."""

from collections import defaultdict
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

from app.billing.month import BillingMonth

Line = tuple[str, str | None, str, str | None]
_USD = Decimal(10) ** 12


def cents(usd: Decimal) -> str:
    return format(usd.quantize(Decimal("0.01"), rounding=ROUND_HALF_EVEN) + 0, "f")


@dataclass
class Oracle:
    """Knows rows, terms and counts; keeps what it said when a month was closed."""

    fee: Decimal | None = None
    included: int = 0
    overage: Decimal = Decimal(0)
    rows: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[tuple[BillingMonth, int], int] = field(default_factory=dict)
    frozen: dict[BillingMonth, list[Line]] = field(default_factory=dict)
    covered: set[int] = field(default_factory=set)  # rows that a closed statement bills

    def lines(self, month: BillingMonth) -> list[Line]:
        """Of an open month as it stands; of a closed one as it stood."""
        if month in self.frozen:
            return self.frozen[month]
        return [*self._fees(month), *self._usage(month), *self._adjustments(month)]

    def close(self, month: BillingMonth) -> list[Line]:
        if month not in self.frozen:
            said = self.lines(month)
            mine = [month, *self._adjusted(month)]
            self.covered |= {
                n for n, row in enumerate(self.rows) if BillingMonth.of(row["started_at"]) in mine
            }
            self.frozen[month] = said
        return self.frozen[month]

    def _fees(self, month: BillingMonth) -> list[Line]:
        if self.fee is None:
            return []
        lines: list[Line] = [("subscription", None, cents(self.fee), None)]
        over = max((n for (m, _), n in self.counts.items() if m == month), default=0) - self.included
        return lines + ([("endpoint_overage", None, cents(self.overage * over), None)] if over > 0 else [])

    def _usage(self, month: BillingMonth) -> list[Line]:
        sums = self._sums(month, range(len(self.rows)))
        return [("managed_usage", model, cents(usd), None) for model, usd in sorted(sums.items())]

    def _adjustments(self, month: BillingMonth) -> list[Line]:
        late = [n for n in range(len(self.rows)) if n not in self.covered]
        return [
            ("adjustment", model, cents(usd), str(earlier))
            for earlier in self._adjusted(month)
            for model, usd in sorted(self._sums(earlier, late).items())
        ]

    def _adjusted(self, month: BillingMonth) -> list[BillingMonth]:
        found: list[BillingMonth] = []
        while month.previous in self.frozen:
            month = month.previous
            found.insert(0, month)
        return found

    def _sums(self, month: BillingMonth, numbers: Any) -> dict[str, Decimal]:
        sums: dict[str, Decimal] = defaultdict(Decimal)
        for n in numbers:
            row = self.rows[n]
            if row["mode"] == "managed" and BillingMonth.of(row["started_at"]) == month:
                sums[row["model"]] += Decimal(row["billed"]) / _USD
        return sums
