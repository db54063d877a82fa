"""HTTP routes of price overrides."""

from fastapi import Response

from app.api.dependencies import AppServices, BillingReader, InternalBillingWriter, Revisions, etag
from app.api.problems import BODY_ERRORS, problems
from app.api.responses import respond, response_headers
from app.api.routing import Router
from app.core.errors import InsufficientScope, InvalidInput, NotFound, PreconditionFailed, ServiceOnly
from app.pricing.schemas import PriceOverrides, PriceOverridesChange
from app.pricing.service import OverrideState, PriceService

router = Router(prefix="/v1/organizations/{organization_id}", tags=["billing"])


@router.get(
    "/price-overrides",
    response_model=PriceOverrides,
    operation_id="getPriceOverrides",
    summary="Get price overrides",
    response_description="The active list and the scheduled one.",
    responses=response_headers("ETag") | problems(InsufficientScope, NotFound),
)
async def get_price_overrides(caller: BillingReader, services: AppServices) -> Response:
    """Return the organization's own prices. They replace Anthropic's list prices; usage of compatible endpoints has no other prices."""
    return _respond(await services[PriceService].overrides(caller.organization_id))


@router.put(
    "/price-overrides",
    response_model=PriceOverrides,
    operation_id="setPriceOverrides",
    summary="Set price overrides",
    response_description="The active list and the scheduled one.",
    responses=response_headers("ETag")
    | problems(
        InvalidInput,
        InsufficientScope,
        ServiceOnly,
        NotFound,
        PreconditionFailed,
        *BODY_ERRORS,
        codes={422: ("looks_like_key", "unknown_field", "effective_at_in_past")},
    ),
)
async def set_price_overrides(
    body: PriceOverridesChange, caller: InternalBillingWriter, services: AppServices, revisions: Revisions
) -> Response:
    """Replace all price overrides, from now or from `effective_at`. It replaces a scheduled list. Existing ledger rows keep their price.

    Setting the active list again, with nothing scheduled, changes nothing. `effective_at` must not be in the past.
    """
    state = await services[PriceService].set_overrides(
        caller, body.to_domain(), effective_at=body.effective_at, revisions=revisions
    )
    return _respond(state)


def _respond(state: OverrideState) -> Response:
    return respond(PriceOverrides.of(state), headers={"ETag": etag(state.revision)})
