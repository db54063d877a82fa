"""Request and response models of subscriptions and endpoint counts."""

from datetime import date
from typing import Annotated

from pydantic import Field

from app.api.money import Money, MoneyAmount
from app.api.schemas import RequestModel, ResponseModel
from app.billing.statements import DayCount, SubscriptionRecord
from app.billing.statements import Subscription as Terms

_MAX_ENDPOINTS = 1_000_000
# Short names: too short for an API key, and never a spreadsheet formula.
_PLAN = r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,31}$"

IncludedEndpoints = Annotated[
    int,
    Field(
        strict=True,
        ge=0,
        le=_MAX_ENDPOINTS,
        description="The number of endpoints that the monthly fee includes.",
        examples=[10],
    ),
]
Endpoints = Annotated[
    int,
    Field(
        strict=True,
        ge=0,
        le=_MAX_ENDPOINTS,
        description="The number of endpoints on that day.",
        examples=[12],
    ),
]


class SubscriptionChange(RequestModel):
    """The terms of a subscription."""

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
    """The subscription of an organization. It applies to all open months."""

    plan: Annotated[str, Field(examples=["production"])]
    monthly_fee: Money
    included_endpoints: IncludedEndpoints
    endpoint_overage_fee: Annotated[
        Money, Field(description="The monthly fee for each endpoint above `included_endpoints`.")
    ]

    @classmethod
    def of(cls, record: SubscriptionRecord) -> "Subscription":
        current = record.subscription
        return cls(
            plan=current.plan,
            monthly_fee=Money.of(current.monthly_fee),
            included_endpoints=current.included_endpoints,
            endpoint_overage_fee=Money.of(current.endpoint_overage_fee),
        )


class EndpointCountChange(RequestModel):
    """The number of endpoints that the organization had on a day in UTC."""

    endpoints: Endpoints


class EndpointCount(ResponseModel):
    """The number of endpoints that the organization had on a day in UTC. The highest count of a month is billed."""

    date: Annotated[date, Field(description="The day in UTC.", examples=["2026-11-25"])]
    endpoints: Endpoints

    @classmethod
    def of(cls, count: DayCount) -> "EndpointCount":
        return cls(date=count.day, endpoints=count.endpoints)
