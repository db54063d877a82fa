"""Response models of billing statements."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, cast

from pydantic import Field

from app.api.money import Money
from app.api.schemas import ResponseModel, Timestamp, split_list
from app.billing import statements as d
from app.core.event_loop import TimeSlice

Month = Annotated[str, Field(description="A month in UTC.", examples=["2026-11"])]
AdjustedMonth = Annotated[
    str | None,
    Field(description="The closed month that this adjusts. Null for usage of this month.", examples=[None]),
]
BilledType = Annotated[
    Literal["subscription", "endpoint_overage", "managed_usage", "adjustment"],
    Field(examples=["managed_usage"]),
]
Model = Annotated[
    str,
    Field(
        description=f"Empty for all other models together, beyond {d.MAX_MODELS} of a month and usage mode.",
        examples=["claude-sonnet-4-5"],
    ),
]
Requests = Annotated[int, Field(examples=[1250])]
Tokens = Annotated[int, Field(examples=[48_200])]


class StatementLine(ResponseModel):
    """A billed line. Only its amount is rounded: to a cent, half to even.

    Lines of managed usage and adjustments count tokens of all classes. Their prices differ, so the lines have no unit
    price.
    """

    type: BilledType
    model: Annotated[
        str | None,
        Field(
            description=f"Null for fees, and for all other models together, beyond the {d.MAX_MODELS} of a month that cost"
            " most.",
            examples=["claude-sonnet-4-5"],
        ),
    ]
    quantity: Annotated[
        int, Field(description="Months, endpoints above the included number, or tokens.", examples=[48_200])
    ]
    unit_price: Annotated[
        Money | None,
        Field(description="Null for usage, because the prices of token classes differ.", examples=[None]),
    ]
    amount: Money
    adjusts_month: AdjustedMonth

    @classmethod
    def of(cls, line: d.StatementLine) -> "StatementLine":
        return cls(
            type=cast("BilledType", line.type.value),
            model=line.model or None,
            quantity=line.quantity,
            unit_price=None if line.unit_price is None else Money.of(line.unit_price),
            amount=Money.of(line.amount),
            adjusts_month=_adjusted(line),
        )


class ByoUsage(ResponseModel):
    """Usage on the organization's own key, which its provider bills. The estimate is exact for the known prices."""

    model: Model
    requests: Requests
    uncached_input_tokens: Tokens
    cache_creation_input_tokens: Tokens
    cache_read_input_tokens: Tokens
    output_tokens: Tokens
    web_search_requests: Requests
    estimated_cost: Annotated[Money, Field(description="Does not include requests without a known price.")]
    unpriced_requests: Requests
    billed_cost: Annotated[
        Money,
        Field(
            description="Always 0: Pharaoh does not bill BYO usage.",
            examples=[{"amount": "0.00", "currency": "USD"}],
        ),
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
    """Managed requests without a known price. If the price becomes known, they are billed.

    If the month is closed by then, they are billed as an adjustment.
    """

    model: Model
    requests: Annotated[
        int, Field(description="Negative in an adjustment, if prices became known.", examples=[3])
    ]
    adjusts_month: AdjustedMonth

    @classmethod
    def of(cls, line: d.StatementLine) -> "UnpricedUsage":
        return cls(
            model=line.model or "",
            requests=line.usage.unpriced_requests,
            adjusts_month=_adjusted(line),
        )


class Informational(ResponseModel):
    """Usage that is not billed, or not yet."""

    byo: list[ByoUsage]
    unpriced_managed: list[UnpricedUsage]


class BillingStatement(ResponseModel):
    """The statement of a month. An open statement may still change; a closed one never does."""

    month: Month
    status: Annotated[Literal["open", "closed"], Field(examples=["open"])]
    closed_at: Annotated[Timestamp | None, Field(description="Null while the statement is open.")]
    lines: list[StatementLine]
    total: Annotated[Money, Field(description="The sum of the amounts of all lines.")]
    informational: Informational


async def statement_json(statement: d.Statement) -> bytes:
    """Serialize a `BillingStatement` line by line: thousands of lines take long enough to let other requests run meanwhile."""
    time_slice = TimeSlice()
    document = BillingStatement(
        month=str(statement.month),
        status="open" if statement.closed_at is None else "closed",
        closed_at=statement.closed_at,
        lines=[],
        total=Money.of(statement.total),
        informational=Informational(byo=[], unpriced_managed=[]),
    ).to_json()
    lists: Mapping[str, Iterable[ResponseModel]] = {
        "lines": map(StatementLine.of, statement.lines),
        "byo": map(ByoUsage.of, statement.byo),
        "unpriced_managed": map(UnpricedUsage.of, statement.unpriced),
    }
    parts: list[bytes] = []
    for name, models in lists.items():
        items: list[bytes] = []
        for model in models:
            items.append(model.to_json())
            await time_slice.pause_if_used()
        before, document = split_list(document, name)
        parts += (before, b",".join(items))
    return b"".join((*parts, document))


def _adjusted(line: d.StatementLine) -> str | None:
    return None if line.adjusts_month is None else str(line.adjusts_month)
