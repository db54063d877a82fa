"""Read and set an organization's own prices."""

from fastapi import APIRouter, Response

from app.api.dependencies import BillingReader, BillingService, Revisions, ServicesOfApp, etag
from app.api.problems import OF_BODIES, problems
from app.api.responses import answer
from app.core.errors import InsufficientScope, InvalidInput, NotFound, PreconditionFailed, ServiceOnly
from app.pricing.schemas import PriceOverrides, PriceOverridesChange
from app.pricing.service import OverrideState, PriceService

router = APIRouter(prefix="/v1/organizations/{organization_id}", tags=["billing"])


@router.get(
    "/price-overrides",
    response_model=PriceOverrides,
    operation_id="getPriceOverrides",
    summary="Read the organization's own prices",
    response_description="The list in force, and the one that is scheduled.",
    responses=problems(InsufficientScope, NotFound),
)
async def get_price_overrides(caller: BillingReader, services: ServicesOfApp) -> Response:
    """What counts instead of Anthropic's list prices, and is all that counts for compatible endpoints."""
    return _answer(await services[PriceService].overrides(caller.organization_id))


@router.put(
    "/price-overrides",
    response_model=PriceOverrides,
    operation_id="setPriceOverrides",
    summary="Set the organization's own prices",
    response_description="The list in force now, and the one that is scheduled.",
    responses=problems(
        InvalidInput,
        InsufficientScope,
        ServiceOnly,
        NotFound,
        PreconditionFailed,
        *OF_BODIES,
        codes={422: ("looks_like_key", "unknown_field", "effective_at_in_past")},
    ),
)
async def set_price_overrides(
    body: PriceOverridesChange, caller: BillingService, services: ServicesOfApp, revisions: Revisions
) -> Response:
    """The whole list, from now or `effective_at` on, in place of what was scheduled. Rows of the past keep the price they have."""
    state = await services[PriceService].set_overrides(
        caller, body.to_domain(), effective_at=body.effective_at, revisions=revisions
    )
    return _answer(state)


def _answer(state: OverrideState) -> Response:
    return answer(PriceOverrides.of(state), headers={"ETag": etag(state.revision)})
