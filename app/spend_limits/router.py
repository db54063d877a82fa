"""Set, list, read, change and delete spend limits."""

from fastapi import APIRouter, Request, Response

from app.api.dependencies import (
    BillingReader,
    BillingWriter,
    IdempotencyKey,
    LimitId,
    Revisions,
    ServicesOfApp,
    etag,
)
from app.api.pagination import Paging
from app.api.problems import OF_BODIES, problems
from app.api.responses import answer, once, resource_id
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
from app.idempotency.service import Hold
from app.spend_limits.limits import LimitState
from app.spend_limits.schemas import SpendLimit, SpendLimitCreate, SpendLimitDeleted, SpendLimitUpdate
from app.spend_limits.service import SpendLimitService

router = APIRouter(prefix="/v1/organizations/{organization_id}/spend-limits", tags=["spend limits"])


@router.post(
    "",
    status_code=201,
    response_model=SpendLimit,
    operation_id="createSpendLimit",
    summary="Set a spend limit",
    response_description="The limit, with what the ledger holds for its period.",
    responses=problems(
        InvalidInput,
        InsufficientScope,
        NotFound,
        RateLimited,
        TooManyLimits,
        IdempotencyInProgress,
        IdempotencyKeyReused,
        *OF_BODIES,
        codes={422: ("unknown_field",)},
    ),
)
async def create_spend_limit(
    request: Request,
    body: SpendLimitCreate,
    caller: BillingWriter,
    services: ServicesOfApp,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Counts from the ledger: what was spent in the period before the limit was set counts too."""

    async def make(held: Hold | None) -> Response:
        state = await services[SpendLimitService].set(caller, body.to_terms(), limit_id=resource_id(held))
        shown = SpendLimit.of(caller.organization_id, state)
        headers = {"Location": f"{request.url.path}/{shown.id}", "ETag": etag(state.limit.revision)}
        return answer(shown, status=201, headers=headers)

    return await once(request, caller, services, idempotency_key, make)


@router.get(
    "",
    response_model=Page[SpendLimit],
    operation_id="listSpendLimits",
    summary="List spend limits",
    response_description="One page of limits.",
    responses=problems(InvalidInput, InsufficientScope, NotFound, codes={422: ("page_invalid",)}),
)
async def list_spend_limits(caller: BillingReader, services: ServicesOfApp, paging: Paging) -> Response:
    """The newest first, each with what it has counted in the period at hand."""
    states = await services[SpendLimitService].page(
        caller.organization_id, at_most=paging.at_most, before=paging.before_id()
    )
    return paging.answer(states, lambda state: SpendLimit.of(caller.organization_id, state), _id)


@router.get(
    "/{limit_id}",
    response_model=SpendLimit,
    operation_id="getSpendLimit",
    summary="Read a spend limit",
    response_description="The limit, with what it has counted.",
    responses=problems(InsufficientScope, NotFound),
)
async def get_spend_limit(limit_id: LimitId, caller: BillingReader, services: ServicesOfApp) -> Response:
    """The ETag is blind to what is spent: it changes with the limit's terms alone."""
    state = await services[SpendLimitService].read(caller.organization_id, limit_id)
    return _answer(caller.organization_id, state)


@router.patch(
    "/{limit_id}",
    response_model=SpendLimit,
    operation_id="updateSpendLimit",
    summary="Change a spend limit",
    response_description="The limit as it is now.",
    responses=problems(
        InvalidInput,
        InsufficientScope,
        NotFound,
        PreconditionFailed,
        RateLimited,
        *OF_BODIES,
        codes={422: ("unknown_field",)},
    ),
)
async def update_spend_limit(
    body: SpendLimitUpdate,
    limit_id: LimitId,
    caller: BillingWriter,
    services: ServicesOfApp,
    revisions: Revisions,
) -> Response:
    """A JSON merge patch. With another scope or period, what is spent is counted anew from the ledger."""
    state = await services[SpendLimitService].change(caller, limit_id, body.apply, revisions=revisions)
    return _answer(caller.organization_id, state)


@router.delete(
    "/{limit_id}",
    response_model=SpendLimitDeleted,
    operation_id="deleteSpendLimit",
    summary="Delete a spend limit",
    response_description="What was deleted, and when.",
    responses=problems(InsufficientScope, NotFound, PreconditionFailed, RateLimited, InvalidInput),
)
async def delete_spend_limit(
    limit_id: LimitId, caller: BillingWriter, services: ServicesOfApp, revisions: Revisions
) -> Response:
    """The limit, its counters and crossings. The ledger keeps what was spent."""
    limit = await services[SpendLimitService].delete(caller, limit_id, revisions=revisions)
    return answer(SpendLimitDeleted(id=limit.id, deleted_at=now()))


def _answer(organization_id: str, state: LimitState) -> Response:
    return answer(SpendLimit.of(organization_id, state), headers={"ETag": etag(state.limit.revision)})


def _id(state: LimitState) -> LimitId:
    return state.limit.id
