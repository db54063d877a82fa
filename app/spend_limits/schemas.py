"""Request and response models of spend limits."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from app.api.money import Money, MoneyAmount
from app.api.schemas import OrganizationId, RequestModel, ResponseModel, Subject, Timestamp, without_default
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
from app.usage_events.dimensions import Dimension, ModelId

_MAX_THRESHOLDS = 10
_DEFAULT_THRESHOLDS = (50, 80, 100)
_OPTIONAL = Field(json_schema_extra=without_default)


def _ascending(thresholds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(thresholds)) != len(thresholds):
        raise PydanticCustomError("thresholds_repeated", "Must not repeat a threshold.")
    return tuple(sorted(thresholds))


Period = Annotated[LimitPeriod, Field(description="In UTC.", examples=[LimitPeriod.MONTH.value])]
Mode = Annotated[
    LimitMode,
    Field(
        description="The usage mode whose spend is counted. `any` counts both modes.",
        examples=[LimitMode.MANAGED.value],
    ),
]
Enforced = Annotated[
    Enforcement,
    Field(
        description="`block` rejects reservations that would exceed the amount. `notify` only reports crossed"
        " thresholds.",
        examples=[Enforcement.BLOCK.value],
    ),
]
Thresholds = Annotated[
    tuple[Annotated[int, Field(strict=True, ge=1, le=1000)], ...],
    Field(
        max_length=_MAX_THRESHOLDS,
        fail_fast=True,
        description="Whole percentages of the amount. Crossing one notifies webhook endpoints, once in each period, and"
        " again after the amount changed.",
        examples=[list(_DEFAULT_THRESHOLDS)],
    ),
    AfterValidator(_ascending),
]


class SpendLimitScope(RequestModel):
    """Which spend is counted. Without `model`, `endpoint_id` or `feature`, all its values are counted."""

    usage_mode: Mode = LimitMode.MANAGED
    model: Annotated[
        ModelId | None,
        Field(description="A model id. It includes the dated snapshots of the model, and `-latest`."),
    ] = None
    endpoint_id: Dimension | None = None
    feature: Dimension | None = None


class SpendLimitCreate(RequestModel):
    """A spend limit to create."""

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
    """An amount in a merge patch. The currency may be omitted."""

    currency: Annotated[Literal["USD"], Field(examples=["USD"])] = "USD"


class SpendLimitUpdate(RequestModel):
    """A JSON merge patch: omitted fields stay. In `scope`, null removes the restriction by model, endpoint or feature."""

    # Defaults are never read: `apply` uses only fields that were sent.
    name: Annotated[Name, _OPTIONAL] = ""
    amount: Annotated[MoneyChange, _OPTIONAL] = MoneyChange(amount="0")
    period: Annotated[Period, _OPTIONAL] = LimitPeriod.MONTH
    scope: Annotated[SpendLimitScope, _OPTIONAL] = SpendLimitScope()
    enforcement: Annotated[Enforced, _OPTIONAL] = Enforcement.BLOCK
    thresholds: Annotated[Thresholds, _OPTIONAL] = _DEFAULT_THRESHOLDS

    def apply(self, terms: LimitTerms) -> LimitTerms:
        """The terms with the sent fields replaced."""
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
    """Which spend is counted. Null matches any value."""

    usage_mode: Mode
    model: Annotated[str | None, Field(examples=[None])]
    endpoint_id: Annotated[str | None, Field(examples=[None])]
    feature: Annotated[str | None, Field(examples=["assistant"])]


class ThresholdCrossing(ResponseModel):
    """A threshold that was crossed in this period."""

    threshold: Annotated[int, Field(examples=[80])]
    crossed_at: Timestamp
    spent: Money
    amount: Annotated[
        Money | None,
        Field(
            description="The amount of the limit that the threshold was measured against. Null if an earlier release"
            " recorded the crossing."
        ),
    ]

    @classmethod
    def of(cls, crossing: Crossing) -> "ThresholdCrossing":
        return cls(
            threshold=crossing.threshold,
            crossed_at=crossing.crossed_at,
            spent=Money.of(crossing.spent),
            amount=None if crossing.amount is None else Money.of(crossing.amount),
        )


class SpendLimit(ResponseModel):
    """A spend limit and its spend in the current period."""

    id: UUID
    organization_id: OrganizationId
    name: Annotated[str, Field(examples=["Monthly budget"])]
    amount: Money
    period: Period
    scope: LimitedScope
    enforcement: Enforced
    thresholds: Annotated[list[int], Field(examples=[list(_DEFAULT_THRESHOLDS)])]
    spent: Annotated[
        Money,
        Field(
            description="Spend of the usage events that match the scope: `spent_managed` plus `spent_byo`."
        ),
    ]
    spent_managed: Annotated[Money, Field(description="Managed usage, as billed by Pharaoh.")]
    spent_byo: Annotated[
        Money, Field(description="The estimated cost of usage that the organization pays its provider for.")
    ]
    reserved: Annotated[
        Money,
        Field(
            description="Reservations that are still charged. An expired one is charged until its usage event is"
            " ingested or it is released; one whose usage event has no known price, until the price is known."
        ),
    ]
    remaining: Annotated[Money, Field(description="`amount` minus `spent` and `reserved`; never below 0.")]
    overrun: Annotated[Money, Field(description="Spend above the amount. Usage events are always accepted.")]
    percent_used: Annotated[
        float | None,
        Field(
            description="`spent` plus `reserved` as a percentage of `amount`, rounded down to 0.01. Null if the amount"
            " is 0.",
            examples=[37.5],
        ),
    ]
    projected: Annotated[
        Money | None,
        Field(description="Spend at the end of the period if the rate so far continues. Null with `total`."),
    ]
    unpriced_requests: Annotated[
        int,
        Field(description="Requests without a known price. `spent` does not include them.", examples=[0]),
    ]
    period_starts_at: Annotated[Timestamp | None, Field(description="Null with `total`.")]
    period_ends_at: Annotated[Timestamp | None, Field(description="Exclusive; null with `total`.")]
    crossings: list[ThresholdCrossing]
    created_at: Timestamp
    created_by: Subject
    updated_at: Timestamp

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
    """Confirms that a spend limit was deleted."""

    id: UUID
    deleted_at: Timestamp
