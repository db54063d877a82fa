"""Spend limits on the wire."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from app.api.money import Money, MoneyAmount
from app.api.schemas import Instant, OrganizationId, RequestModel, ResponseModel, Subject, without_default
from app.api.text import Name
from app.spend_limits.limits import (
    Crossing,
    Enforcement,
    LimitMode,
    LimitPeriod,
    LimitScope,
    LimitState,
    LimitTerms,
)
from app.usage.dimensions import Dimension

_MOST_THRESHOLDS = 10
_DEFAULT_THRESHOLDS = (50, 80, 100)
_MAY_BE_LEFT_OUT = Field(json_schema_extra=without_default)


def _ascending(thresholds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(thresholds)) != len(thresholds):
        raise PydanticCustomError("thresholds_repeated", "A threshold is named twice.")
    return tuple(sorted(thresholds))


Period = Annotated[LimitPeriod, Field(description="In UTC.", examples=[LimitPeriod.MONTH.value])]
Mode = Annotated[
    LimitMode, Field(description="`any` counts both together.", examples=[LimitMode.MANAGED.value])
]
Enforced = Annotated[
    Enforcement,
    Field(
        description="`block` refuses reservations past the amount; `notify` only tells.",
        examples=[Enforcement.BLOCK.value],
    ),
]
Thresholds = Annotated[
    tuple[Annotated[int, Field(strict=True, ge=1, le=1000)], ...],
    Field(
        max_length=_MOST_THRESHOLDS,
        description="Whole percents of the amount; each is told once in a period.",
        examples=[list(_DEFAULT_THRESHOLDS)],
    ),
    AfterValidator(_ascending),
]


class SpendLimitScope(RequestModel):
    """What is counted; what is left out does not matter."""

    usage_mode: Mode = LimitMode.MANAGED
    model: Dimension | None = None
    endpoint_id: Dimension | None = None
    feature: Dimension | None = None


class SpendLimitCreate(RequestModel):
    """A new limit."""

    name: Name
    amount: MoneyAmount
    period: Period
    scope: SpendLimitScope = SpendLimitScope()
    enforcement: Enforced = Enforcement.BLOCK
    thresholds: Thresholds = _DEFAULT_THRESHOLDS

    def to_terms(self) -> LimitTerms:
        return LimitTerms(
            name=self.name,
            amount=self.amount.pico,
            period=self.period,
            scope=LimitScope(
                mode=self.scope.usage_mode,
                model=self.scope.model,
                endpoint_id=self.scope.endpoint_id,
                feature=self.scope.feature,
            ),
            enforcement=self.enforcement,
            thresholds=self.thresholds,
        )


class MoneyChange(MoneyAmount):
    """An amount in a merge patch, where the currency may be left as it is."""

    currency: Annotated[Literal["USD"], Field(examples=["USD"])] = "USD"


class SpendLimitUpdate(RequestModel):
    """A JSON merge patch: what is left out stays. In `scope`, null takes a restriction by model, endpoint or feature away."""

    # What stands here where nothing was sent is never looked at.
    name: Annotated[Name, _MAY_BE_LEFT_OUT] = ""
    amount: Annotated[MoneyChange, _MAY_BE_LEFT_OUT] = MoneyChange(amount="0")
    period: Annotated[Period, _MAY_BE_LEFT_OUT] = LimitPeriod.MONTH
    scope: Annotated[SpendLimitScope, _MAY_BE_LEFT_OUT] = SpendLimitScope()
    enforcement: Annotated[Enforced, _MAY_BE_LEFT_OUT] = Enforcement.BLOCK
    thresholds: Annotated[Thresholds, _MAY_BE_LEFT_OUT] = _DEFAULT_THRESHOLDS

    def apply(self, terms: LimitTerms) -> LimitTerms:
        """The terms with what was sent in place of what was there."""
        sent = self.model_fields_set
        scope_sent = self.scope.model_fields_set if "scope" in sent else set()
        scope = LimitScope(
            mode=self.scope.usage_mode if "usage_mode" in scope_sent else terms.scope.mode,
            model=self.scope.model if "model" in scope_sent else terms.scope.model,
            endpoint_id=self.scope.endpoint_id if "endpoint_id" in scope_sent else terms.scope.endpoint_id,
            feature=self.scope.feature if "feature" in scope_sent else terms.scope.feature,
        )
        return LimitTerms(
            name=self.name if "name" in sent else terms.name,
            amount=self.amount.pico if "amount" in sent else terms.amount,
            period=self.period if "period" in sent else terms.period,
            scope=scope,
            enforcement=self.enforcement if "enforcement" in sent else terms.enforcement,
            thresholds=self.thresholds if "thresholds" in sent else terms.thresholds,
        )


class LimitedScope(ResponseModel):
    """What is counted."""

    usage_mode: Mode
    model: Annotated[str | None, Field(examples=[None])]
    endpoint_id: Annotated[str | None, Field(examples=[None])]
    feature: Annotated[str | None, Field(examples=["assistant"])]


class ThresholdCrossing(ResponseModel):
    """A threshold that was reached in this period."""

    threshold: Annotated[int, Field(examples=[80])]
    crossed_at: Instant
    spent: Money

    @classmethod
    def of(cls, crossing: Crossing) -> "ThresholdCrossing":
        return cls(
            threshold=crossing.threshold, crossed_at=crossing.crossed_at, spent=Money.of(crossing.spent)
        )


class SpendLimit(ResponseModel):
    """A limit, and what it has counted in the period at hand."""

    id: UUID
    organization_id: OrganizationId
    name: Annotated[str, Field(examples=["Monthly budget"])]
    amount: Money
    period: Period
    scope: LimitedScope
    enforcement: Enforced
    thresholds: Annotated[list[int], Field(examples=[list(_DEFAULT_THRESHOLDS)])]
    spent: Annotated[
        Money, Field(description="From the ledger: both modes together, as far as the scope goes.")
    ]
    spent_managed: Annotated[Money, Field(description="What Pharaoh pays and bills.")]
    spent_byo: Annotated[
        Money, Field(description="What the organization pays its provider, by our estimate.")
    ]
    reserved: Annotated[
        Money,
        Field(description="Put aside and not yet settled. What expired stays here until its event comes."),
    ]
    remaining: Annotated[
        Money, Field(description="The amount less what is spent and reserved; never below 0.")
    ]
    overrun: Annotated[Money, Field(description="What is spent beyond the amount: events are never refused.")]
    percent_used: Annotated[
        float | None,
        Field(
            description="Spent and reserved, of the amount, rounded down; null of an amount of 0.",
            examples=[37.5],
        ),
    ]
    projected: Annotated[
        Money | None,
        Field(
            description="What will be spent by the end of the period if it goes on like this; null without an end."
        ),
    ]
    unpriced_requests: Annotated[
        int, Field(description="Requests without a known price: not in `spent`, and not free.", examples=[0])
    ]
    period_starts_at: Annotated[Instant | None, Field(description="Null with `total`.")]
    period_ends_at: Annotated[Instant | None, Field(description="Exclusive; null with `total`.")]
    crossings: list[ThresholdCrossing]
    created_at: Instant
    created_by: Subject
    updated_at: Instant

    @classmethod
    def of(cls, organization_id: str, state: LimitState) -> "SpendLimit":
        limit, terms, spend = state.limit, state.limit.terms, state.spend
        ends_at, projected = state.period_ends_at, state.projected
        return cls(
            id=limit.id,
            organization_id=organization_id,
            name=terms.name,
            amount=Money.of(terms.amount),
            period=terms.period,
            scope=LimitedScope(
                usage_mode=terms.scope.mode,
                model=terms.scope.model,
                endpoint_id=terms.scope.endpoint_id,
                feature=terms.scope.feature,
            ),
            enforcement=terms.enforcement,
            thresholds=list(terms.thresholds),
            spent=Money.of(spend.settled),
            spent_managed=Money.of(spend.managed),
            spent_byo=Money.of(spend.byo),
            reserved=Money.of(spend.reserved),
            remaining=Money.of(state.remaining),
            overrun=Money.of(state.overrun),
            percent_used=state.percent_used,
            projected=None if projected is None else Money.of(projected),
            unpriced_requests=spend.unpriced,
            period_starts_at=None if ends_at is None else state.period_starts_at,
            period_ends_at=ends_at,
            crossings=[ThresholdCrossing.of(crossing) for crossing in state.crossings],
            created_at=limit.created_at,
            created_by=limit.created_by,
            updated_at=limit.updated_at,
        )


class SpendLimitDeleted(ResponseModel):
    """The receipt."""

    id: UUID
    deleted_at: Instant
