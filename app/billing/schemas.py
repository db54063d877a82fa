"""Statements on the wire."""

from typing import Annotated, Literal, cast

from pydantic import Field

from app.api.money import Money
from app.api.schemas import Instant, ResponseModel
from app.billing import statements as d

Month = Annotated[str, Field(description="In UTC.", examples=["2026-11"])]
AdjustedMonth = Annotated[
    str | None,
    Field(description="Null unless it is about a month that was closed before.", examples=[None]),
]
BilledType = Annotated[
    Literal["subscription", "endpoint_overage", "managed_usage", "adjustment"],
    Field(examples=["managed_usage"]),
]
Model = Annotated[str, Field(examples=["claude-sonnet-4-5"])]
Requests = Annotated[int, Field(examples=[1250])]
Tokens = Annotated[int, Field(examples=[48_200])]


class StatementLine(ResponseModel):
    """One line of what is billed, rounded to a cent, half to even; nothing is rounded before or after.

    Managed usage and its adjustments count tokens of every class; these have many prices, so there
    is no unit price.
    """

    type: BilledType
    model: Annotated[str | None, Field(description="Of usage.", examples=["claude-sonnet-4-5"])]
    quantity: Annotated[int, Field(description="Months, endpoints over, or tokens.", examples=[48_200])]
    unit_price: Annotated[Money | None, Field(description="Null where prices differ.", examples=[None])]
    amount: Money
    adjusts_month: AdjustedMonth

    @classmethod
    def of(cls, line: d.StatementLine) -> "StatementLine":
        return cls(
            type=cast("BilledType", line.type.value),
            model=line.model,
            quantity=line.quantity,
            unit_price=None if line.unit_price is None else Money.of(line.unit_price),
            amount=Money.of(line.amount),
            adjusts_month=_adjusted(line),
        )


class ByoUsage(ResponseModel):
    """Use on the organization's own key, which its provider bills. The estimate is exact by list prices."""

    model: Model
    requests: Requests
    uncached_input_tokens: Tokens
    cache_creation_input_tokens: Tokens
    cache_read_input_tokens: Tokens
    output_tokens: Tokens
    web_search_requests: Requests
    estimated_cost: Annotated[Money, Field(description="Without the requests that have no known price.")]
    unpriced_requests: Requests
    billed_cost: Annotated[
        Money, Field(description="0: we never bill it.", examples=[{"amount": "0.00", "currency": "USD"}])
    ]
    adjusts_month: AdjustedMonth

    @classmethod
    def of(cls, line: d.StatementLine) -> "ByoUsage":
        usage, tokens = line.usage, line.usage.tokens
        return cls(
            model=line.model or "",
            requests=usage.requests,
            uncached_input_tokens=tokens.uncached_input,
            cache_creation_input_tokens=tokens.cache_write_5m + tokens.cache_write_1h,
            cache_read_input_tokens=tokens.cache_read,
            output_tokens=tokens.output,
            web_search_requests=tokens.web_search_requests,
            estimated_cost=Money.of(usage.estimated),
            unpriced_requests=usage.unpriced_requests,
            billed_cost=Money.of(line.amount),
            adjusts_month=_adjusted(line),
        )


class UnpricedUsage(ResponseModel):
    """Managed requests without a known price. Billed later, as an adjustment, should it become known."""

    model: Model
    requests: Annotated[int, Field(description="Negative: a price became known since.", examples=[3])]
    adjusts_month: AdjustedMonth

    @classmethod
    def of(cls, line: d.StatementLine) -> "UnpricedUsage":
        return cls(
            model=line.model or "",
            requests=line.usage.unpriced_requests,
            adjusts_month=_adjusted(line),
        )


class Informational(ResponseModel):
    """What is not billed."""

    byo: list[ByoUsage]
    unpriced_managed: list[UnpricedUsage]


class BillingStatement(ResponseModel):
    """A month's statement. Open: as it stands now. Closed: it never changes."""

    month: Month
    status: Annotated[Literal["open", "closed"], Field(examples=["open"])]
    closed_at: Annotated[Instant | None, Field(description="Null while it is open.")]
    lines: list[StatementLine]
    total: Annotated[Money, Field(description="The sum of the lines.")]
    informational: Informational

    @classmethod
    def of(cls, statement: d.Statement) -> "BillingStatement":
        return cls(
            month=str(statement.month),
            status="open" if statement.closed_at is None else "closed",
            closed_at=statement.closed_at,
            lines=[StatementLine.of(line) for line in statement.lines],
            total=Money.of(statement.total),
            informational=Informational(
                byo=[ByoUsage.of(line) for line in statement.byo],
                unpriced_managed=[UnpricedUsage.of(line) for line in statement.unpriced],
            ),
        )


def _adjusted(line: d.StatementLine) -> str | None:
    return None if line.adjusts_month is None else str(line.adjusts_month)
