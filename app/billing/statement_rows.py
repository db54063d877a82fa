"""Converts rows of the ledger and of closed statements into statement lines, and back."""

from typing import Any

from app.billing.month import BillingMonth
from app.billing.statements import LineType, StatementLine, UsageKey, UsageTotals
from app.database.statements import Row
from app.usage_events.records import TokenUsage
from app.usage_mode.modes import UsageMode

COUNTERS = (
    "uncached_input_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "cache_read_tokens",
    "output_tokens",
    "web_search_requests",
)


def key_of(month: BillingMonth, row: Row) -> UsageKey:
    return UsageKey(month, UsageMode(row["mode"]), row["model"])


def totals_of(row: Row, *, billed: str = "billed", estimated: str = "estimated") -> UsageTotals:
    """Totals of a row. PostgreSQL returns sums of bigints as numeric; the values are whole numbers."""
    return UsageTotals(
        requests=int(row["requests"]),
        unpriced_requests=int(row["unpriced_requests"]),
        tokens=TokenUsage.of_columns(row),
        estimated=int(row[estimated]),
        billed=int(row[billed]),
    )


def line_of(row: Row) -> StatementLine:
    adjusted = row["adjusts_month"]
    return StatementLine(
        type=LineType(row["type"]),
        quantity=row["quantity"],
        exact=int(row["exact"]),
        amount=int(row["amount"]),
        unit_price=row["unit_price"],
        mode=None if row["mode"] is None else UsageMode(row["mode"]),
        model=row["model"],
        adjusts_month=None if adjusted is None else BillingMonth.of_day(adjusted),
        usage=totals_of(row, billed="exact"),
    )


def columns_of(line: StatementLine) -> dict[str, Any]:
    tokens, adjusted = line.usage.tokens, line.adjusts_month
    return {
        "type": line.type,
        "mode": line.mode,
        "model": line.model,
        "adjusts_month": None if adjusted is None else adjusted.first_day,
        "quantity": line.quantity,
        "unit_price": line.unit_price,
        "exact": line.exact,
        "amount": line.amount,
        "estimated": line.usage.estimated,
        "requests": line.usage.requests,
        "unpriced_requests": line.usage.unpriced_requests,
        "uncached_input_tokens": tokens.uncached_input,
        "cache_write_5m_tokens": tokens.cache_write_5m,
        "cache_write_1h_tokens": tokens.cache_write_1h,
        "cache_read_tokens": tokens.cache_read,
        "output_tokens": tokens.output,
        "web_search_requests": tokens.web_search_requests,
    }
