"""A statement as CSV with the column names of FOCUS 1.x. Additional columns start with `x_`.

Usage that an organization pays its provider for has a `BilledCost` of 0, because Pharaoh does not bill it.
"""

from collections.abc import Iterator
from decimal import Decimal

from app.api.csv_export import Cell, csv_row
from app.billing.month import BillingMonth
from app.billing.statements import LineType, Statement, StatementLine
from app.core.money import to_usd

_PHARAOH, _ANTHROPIC = "Pharaoh", "Anthropic"

COLUMNS = (
    *("BillingAccountId", "BillingPeriodStart", "BillingPeriodEnd", "BillingCurrency"),
    *("ChargePeriodStart", "ChargePeriodEnd", "ChargeCategory", "ChargeClass", "ChargeFrequency"),
    *("ChargeDescription", "ProviderName", "PublisherName", "InvoiceIssuerName"),
    *("ServiceCategory", "ServiceName", "SkuId", "PricingQuantity", "PricingUnit", "ListUnitPrice"),
    *("BilledCost", "EffectiveCost", "ConsumedQuantity", "ConsumedUnit"),
    *("x_StatementStatus", "x_LineType", "x_UsageMode", "x_Model", "x_AdjustsMonth"),
    *("x_Requests", "x_UnpricedRequests", "x_EstimatedCost"),
)

_DESCRIPTIONS = {
    LineType.SUBSCRIPTION: "Monthly subscription fee",
    LineType.ENDPOINT_OVERAGE: "Endpoints above the included number, at the month's peak",
    LineType.MANAGED_USAGE: "Managed usage",
    LineType.ADJUSTMENT: "Adjustment of managed usage in a closed month",
    LineType.BYO_USAGE: "Usage on the organization's own key, billed by its provider",
}


def focus_rows(organization_id: str, statement: Statement) -> Iterator[str]:
    """The header, then one CSV row for each line of the statement, billed lines first."""
    yield csv_row(COLUMNS)
    for line in statement.all_lines:
        yield csv_row(_cells(organization_id, statement, line))


def _cells(organization_id: str, statement: Statement, line: StatementLine) -> tuple[Cell, ...]:
    charged_month = line.adjusts_month or statement.month
    is_fee = line.mode is None
    is_byo = line.type is LineType.BYO_USAGE
    unit = {LineType.SUBSCRIPTION: "Months", LineType.ENDPOINT_OVERAGE: "Endpoints"}.get(line.type, "Tokens")
    billed = Decimal(to_usd(line.amount))
    return (
        organization_id,
        *_period(statement.month),
        "USD",
        *_period(charged_month),
        "Purchase" if is_fee else "Usage",
        "Correction" if line.adjusts_month is not None else None,
        "Recurring" if is_fee else "Usage-Based",
        _DESCRIPTIONS[line.type],
        *(_PHARAOH, _PHARAOH if is_fee else _ANTHROPIC, _ANTHROPIC if is_byo else _PHARAOH),
        "Developer Tools" if is_fee else "AI and Machine Learning",
        "Pharaoh subscription" if is_fee else "Claude API",
        line.model or line.type.value,
        line.quantity,
        unit,
        None if line.unit_price is None else Decimal(to_usd(line.unit_price)),
        *(billed, billed),
        *((None, None) if is_fee else (line.quantity, unit)),
        "open" if statement.closed_at is None else "closed",
        line.type.value,
        line.mode,
        line.model,
        None if line.adjusts_month is None else str(line.adjusts_month),
        *(
            (None, None, None)
            if is_fee
            else (line.usage.requests, line.usage.unpriced_requests, Decimal(to_usd(line.usage.estimated)))
        ),
    )


def _period(month: BillingMonth) -> tuple[str, str]:
    return f"{month.starts_at:%Y-%m-%dT%H:%M:%SZ}", f"{month.ends_at:%Y-%m-%dT%H:%M:%SZ}"
