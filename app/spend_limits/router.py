"""HTTP routes of spend limits: create, list, get, update and delete."""

from fastapi import Request, Response

from app.api.dependencies import (
    AppServices,
    BillingReader,
    BillingWriter,
    IdempotencyKey,
    LimitId,
    Revisions,
    etag,
)
from app.api.pagination import Paging
from app.api.problems import BODY_ERRORS, problems
from app.api.responses import once, respond, response_headers
from app.api.routing import Router
from app.api.schemas import Page
from app.core.clock import now
from app.core.errors import (
    IdempotencyInProgress,
    IdempotencyKeyReused,
    InsufficientScope,
    InvalidInput,
    NotFound,
    PreconditionFailed,
    RateLimited,
    TooManyLimits,
)
from app.spend_limits.limits import LimitState
from app.spend_limits.schemas import SpendLimit, SpendLimitCreate, SpendLimitDeleted, SpendLimitUpdate
from app.spend_limits.service import SpendLimitService

router = Router(prefix="/v1/organizations/{organization_id}/spend-limits", tags=["spend limits"])


@router.post(
    "",
    status_code=201,
    response_model=SpendLimit,
    operation_id="createSpendLimit",
    summary="Create a spend limit",
    response_description="The limit with its spend in the current period.",
    responses=response_headers("ETag", "Location", status=201)
    | problems(
        InvalidInput,
        InsufficientScope,
        NotFound,
        RateLimited,
        TooManyLimits,
        IdempotencyInProgress,
        IdempotencyKeyReused,
        *BODY_ERRORS,
        codes={422: ("unknown_field",)},
    ),
)
async def create_spend_limit(
    request: Request,
    body: SpendLimitCreate,
    caller: BillingWriter,
    services: AppServices,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Create a spend limit. Spend of the current period counts even if it is older than the limit.

    If the spend has crossed thresholds already, webhook endpoints are notified at once.
    """

    def to_response(state: LimitState) -> Response:
        shown = SpendLimit.of(caller.organization_id, state)
        headers = {"Location": f"{request.url.path}/{shown.id}", "ETag": etag(state.limit.revision)}
        return respond(shown, status=201, headers=headers)

    return await once(
        request,
        caller,
        services,
        idempotency_key,
        create=lambda id_: services[SpendLimitService].create(caller, body.to_terms(), limit_id=id_),
        to_response=to_response,
    )


@router.get(
    "",
    response_model=Page[SpendLimit],
    operation_id="listSpendLimits",
    summary="List spend limits",
    response_description="One page of limits.",
    responses=problems(InvalidInput, InsufficientScope, NotFound, codes={422: ("page_invalid",)}),
)
async def list_spend_limits(caller: BillingReader, services: AppServices, paging: Paging) -> Response:
    """List the spend limits of the organization, newest first, each with its spend in the current period."""
    states = await services[SpendLimitService].page(
        caller.organization_id, at_most=paging.at_most, before=paging.before_id()
    )
    return paging.respond(states, lambda state: SpendLimit.of(caller.organization_id, state), _id)


@router.get(
    "/{limit_id}",
    response_model=SpendLimit,
    operation_id="getSpendLimit",
    summary="Get a spend limit",
    response_description="The limit with its spend in the current period.",
    responses=response_headers("ETag") | problems(InsufficientScope, NotFound),
)
async def get_spend_limit(limit_id: LimitId, caller: BillingReader, services: AppServices) -> Response:
    """Return a spend limit. Its ETag changes only with the limit's terms, not with its spend."""
    state = await services[SpendLimitService].read(caller.organization_id, limit_id)
    return _respond(caller.organization_id, state)


@router.patch(
    "/{limit_id}",
    response_model=SpendLimit,
    operation_id="updateSpendLimit",
    summary="Update a spend limit",
    response_description="The updated limit.",
    responses=response_headers("ETag")
    | problems(
        InvalidInput,
        InsufficientScope,
        NotFound,
        PreconditionFailed,
        RateLimited,
        *BODY_ERRORS,
        codes={422: ("unknown_field",)},
    ),
)
async def update_spend_limit(
    body: SpendLimitUpdate,
    limit_id: LimitId,
    caller: BillingWriter,
    services: AppServices,
    revisions: Revisions,
) -> Response:
    """Update a spend limit with a JSON merge patch.

    If the scope or the period changes, the spend is counted again from the ledger. If one of them or the amount
    changes, thresholds are reported again, against the new amount. If the spend has crossed thresholds of the updated limit, webhook endpoints are notified at once.
    """
    state = await services[SpendLimitService].update(caller, limit_id, body.apply, revisions=revisions)
    return _respond(caller.organization_id, state)


@router.delete(
    "/{limit_id}",
    response_model=SpendLimitDeleted,
    operation_id="deleteSpendLimit",
    summary="Delete a spend limit",
    response_description="The id of the deleted limit, and when it was deleted.",
    responses=problems(InsufficientScope, NotFound, PreconditionFailed, RateLimited, InvalidInput),
)
async def delete_spend_limit(
    limit_id: LimitId, caller: BillingWriter, services: AppServices, revisions: Revisions
) -> Response:
    """Delete a spend limit with its counters and crossed thresholds. Reservations and usage events stay."""
    limit = await services[SpendLimitService].delete(caller, limit_id, revisions=revisions)
    return respond(SpendLimitDeleted(id=limit.id, deleted_at=now()))


def _respond(organization_id: str, state: LimitState) -> Response:
    return respond(SpendLimit.of(organization_id, state), headers={"ETag": etag(state.limit.revision)})


def _id(state: LimitState) -> LimitId:
    return state.limit.id
