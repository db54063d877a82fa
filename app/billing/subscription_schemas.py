"""Subscriptions and endpoint counts on the wire."""

from datetime import date
from typing import Annotated

from pydantic import Field

from app.api.money import Money, MoneyAmount
from app.api.schemas import RequestModel, ResponseModel
from app.billing.statements import Subscription as Terms
from app.billing.statements import SubscriptionRecord

_MOST = 1_000_000
# A word or two. Too short for a key, and never a formula.
_PLAN = r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,31}$"

IncludedEndpoints = Annotated[
    int, Field(strict=True, ge=0, le=_MOST, description="Covered by the monthly fee.", examples=[10])
]
Endpoints = Annotated[
    int, Field(strict=True, ge=0, le=_MOST, description="How many there were.", examples=[12])
]


class SubscriptionChange(RequestModel):
    """What the organization subscribed to."""

    plan: Annotated[str, Field(pattern=_PLAN, examples=["production"])]
    monthly_fee: MoneyAmount
    included_endpoints: IncludedEndpoints
    endpoint_overage_fee: MoneyAmount

    def to_terms(self) -> Terms:
        return Terms(
            plan=self.plan,
            monthly_fee=self.monthly_fee.pico,
            included_endpoints=self.included_endpoints,
            endpoint_overage_fee=self.endpoint_overage_fee.pico,
        )


class Subscription(ResponseModel):
    """What the organization subscribed to. It counts for every month that is open."""

    plan: Annotated[str, Field(examples=["production"])]
    monthly_fee: Money
    included_endpoints: IncludedEndpoints
    endpoint_overage_fee: Annotated[Money, Field(description="For each endpoint over, a month.")]

    @classmethod
    def of(cls, record: SubscriptionRecord) -> "Subscription":
        held = record.subscription
        return cls(
            plan=held.plan,
            monthly_fee=Money.of(held.monthly_fee),
            included_endpoints=held.included_endpoints,
            endpoint_overage_fee=Money.of(held.endpoint_overage_fee),
        )


class EndpointCountChange(RequestModel):
    """How many endpoints the organization had on a day, in UTC."""

    endpoints: Endpoints


class EndpointCount(ResponseModel):
    """How many endpoints the organization had on a day, in UTC. The month's peak counts."""

    date: Annotated[date, Field(description="In UTC.", examples=["2026-11-25"])]
    endpoints: Endpoints
