"""What internal services say of an organization: its subscription, its endpoints."""

from datetime import date
from typing import Annotated

from fastapi import APIRouter, Path, Response

from app.api.dependencies import BillingService, Revisions, ServicesOfApp, etag
from app.api.problems import OF_BODIES, problems
from app.api.responses import answer
from app.billing.subscription_schemas import (
    EndpointCount,
    EndpointCountChange,
    Subscription,
    SubscriptionChange,
)
from app.billing.subscription_service import SubscriptionService
from app.core.errors import (
    InsufficientScope,
    InvalidInput,
    NotFound,
    PreconditionFailed,
    ServiceOnly,
    StatementClosed,
)

router = APIRouter(prefix="/v1/organizations/{organization_id}", tags=["statements"])

Day = Annotated[
    str,
    Path(
        pattern=r"^20[0-9]{2}-(0[1-9]|1[0-2])-[0-9]{2}$",
        description="A day, in UTC.",
        examples=["2026-11-25"],
    ),
]


@router.put(
    "/subscription",
    response_model=Subscription,
    operation_id="setSubscription",
    summary="Set the subscription",
    response_description="The subscription.",
    responses=problems(
        InvalidInput,
        InsufficientScope,
        ServiceOnly,
        NotFound,
        PreconditionFailed,
        *OF_BODIES,
        codes={422: ("unknown_field",)},
    ),
)
async def set_subscription(
    body: SubscriptionChange, caller: BillingService, services: ServicesOfApp, revisions: Revisions
) -> Response:
    """For internal services. It counts for every open month, whole: there is no proration."""
    record = await services[SubscriptionService].change(caller, body.to_terms(), revisions=revisions)
    return answer(Subscription.of(record), headers={"ETag": etag(record.revision)})


@router.put(
    "/endpoint-counts/{day}",
    response_model=EndpointCount,
    operation_id="setEndpointCount",
    summary="Say how many endpoints there were on a day",
    response_description="The count.",
    responses=problems(
        InvalidInput,
        InsufficientScope,
        ServiceOnly,
        NotFound,
        StatementClosed,
        *OF_BODIES,
        codes={422: ("unknown_field", "date_in_future")},
    ),
)
async def set_endpoint_count(
    day: Day, body: EndpointCountChange, caller: BillingService, services: ServicesOfApp
) -> Response:
    """For internal services. Replaces what was said of that day before. The month's peak is billed."""
    try:
        parsed = date.fromisoformat(day)
    except ValueError:
        raise NotFound from None
    await services[SubscriptionService].count_endpoints(caller, parsed, body.endpoints)
    return answer(EndpointCount(date=parsed, endpoints=body.endpoints))
