"""HTTP routes of the subscription and the endpoint counts: internal services set them, admins read them."""

from datetime import date
from typing import Annotated

from fastapi import Path, Response

from app.api.dependencies import AppServices, BillingReader, InternalBillingWriter, Revisions, etag
from app.api.pagination import Paging
from app.api.problems import BODY_ERRORS, problems
from app.api.responses import respond, response_headers
from app.api.routing import Router
from app.api.schemas import Page
from app.billing.statements import DayCount
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

router = Router(prefix="/v1/organizations/{organization_id}", tags=["statements"])

Day = Annotated[
    str,
    Path(
        pattern=r"^20[0-9]{2}-(0[1-9]|1[0-2])-[0-9]{2}$",
        description="A day in UTC.",
        examples=["2026-11-25"],
    ),
]


@router.get(
    "/subscription",
    response_model=Subscription,
    operation_id="getSubscription",
    summary="Get the subscription",
    response_description="The subscription.",
    responses=response_headers("ETag") | problems(InsufficientScope, NotFound),
)
async def get_subscription(caller: BillingReader, services: AppServices) -> Response:
    """Get the terms that apply to all open months. 404 if the organization has no subscription."""
    record = await services[SubscriptionService].read(caller.organization_id)
    return respond(Subscription.of(record), headers={"ETag": etag(record.revision)})


@router.put(
    "/subscription",
    response_model=Subscription,
    operation_id="setSubscription",
    summary="Set the subscription",
    response_description="The subscription.",
    responses=response_headers("ETag")
    | problems(
        InvalidInput,
        InsufficientScope,
        ServiceOnly,
        NotFound,
        PreconditionFailed,
        *BODY_ERRORS,
        codes={422: ("unknown_field",)},
    ),
)
async def set_subscription(
    body: SubscriptionChange, caller: InternalBillingWriter, services: AppServices, revisions: Revisions
) -> Response:
    """Create or replace the subscription of the organization. For internal services.

    It applies to all open months in full, without proration. Repeating the request changes nothing.
    """
    record = await services[SubscriptionService].change(caller, body.to_terms(), revisions=revisions)
    return respond(Subscription.of(record), headers={"ETag": etag(record.revision)})


@router.get(
    "/endpoint-counts",
    response_model=Page[EndpointCount],
    operation_id="listEndpointCounts",
    summary="List endpoint counts",
    response_description="One page of endpoint counts.",
    responses=problems(InvalidInput, InsufficientScope, NotFound, codes={422: ("page_invalid",)}),
)
async def list_endpoint_counts(caller: BillingReader, services: AppServices, paging: Paging) -> Response:
    """List the days that have a count, latest first. A day without a count does not change the month's highest count."""
    counts = await services[SubscriptionService].endpoint_counts(
        caller.organization_id, at_most=paging.at_most, before=paging.before_number()
    )
    return paging.respond(counts, EndpointCount.of, _ordinal)


@router.get(
    "/endpoint-counts/{day}",
    response_model=EndpointCount,
    operation_id="getEndpointCount",
    summary="Get the endpoint count of a day",
    response_description="The endpoint count.",
    responses=response_headers("ETag") | problems(InsufficientScope, NotFound),
)
async def get_endpoint_count(day: Day, caller: BillingReader, services: AppServices) -> Response:
    """Get how many endpoints the organization had on a day. 404 if no count was set for it."""
    return _respond_count(
        await services[SubscriptionService].endpoint_count(caller.organization_id, _parse(day))
    )


@router.put(
    "/endpoint-counts/{day}",
    response_model=EndpointCount,
    operation_id="setEndpointCount",
    summary="Set the endpoint count for a day",
    response_description="The endpoint count.",
    responses=response_headers("ETag")
    | problems(
        InvalidInput,
        InsufficientScope,
        ServiceOnly,
        NotFound,
        StatementClosed,
        PreconditionFailed,
        *BODY_ERRORS,
        codes={422: ("unknown_field", "date_in_future")},
    ),
)
async def set_endpoint_count(
    day: Day,
    body: EndpointCountChange,
    caller: InternalBillingWriter,
    services: AppServices,
    revisions: Revisions,
) -> Response:
    """Set how many endpoints the organization had on a day. It replaces an earlier count. For internal services.

    The highest count of a month is billed. The month must have begun, and its statement must be open.
    """
    count = DayCount(day=_parse(day), endpoints=body.endpoints)
    await services[SubscriptionService].set_endpoint_count(caller, count, revisions=revisions)
    return _respond_count(count)


def _respond_count(count: DayCount) -> Response:
    return respond(EndpointCount.of(count), headers={"ETag": etag(count.revision)})


def _parse(day: str) -> date:
    """Raises NotFound: the month does not have this day."""
    try:
        return date.fromisoformat(day)
    except ValueError:
        raise NotFound from None


def _ordinal(count: DayCount) -> int:
    return count.day.toordinal()
