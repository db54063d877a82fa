"""HTTP routes of the usage mode: get, switch and list changes."""

from fastapi import Response

from app.api.dependencies import AppServices, BillingReader, BillingWriter, Revisions, etag
from app.api.pagination import Paging
from app.api.problems import BODY_ERRORS, problems
from app.api.responses import respond, response_headers
from app.api.routing import Router
from app.api.schemas import Page
from app.core.errors import CredentialDeleted, InsufficientScope, InvalidInput, NotFound, PreconditionFailed
from app.usage_mode.modes import ModeChange
from app.usage_mode.modes import UsageModeState as State
from app.usage_mode.schemas import UsageModeChange, UsageModeState, UsageModeSwitch
from app.usage_mode.service import ModeSwitch, UsageModeService

router = Router(prefix="/v1/organizations/{organization_id}", tags=["billing"])

SWITCH_ERROR_CODES = (
    *("unknown_field", "credential_not_found", "credential_not_used"),
    *("effective_at_in_past", "effective_at_too_far"),
)


@router.get(
    "/usage-mode",
    response_model=UsageModeState,
    operation_id="getUsageMode",
    summary="Get the usage mode",
    response_description="The active usage mode and the scheduled change.",
    responses=response_headers("ETag") | problems(InsufficientScope, NotFound),
)
async def get_usage_mode(caller: BillingReader, services: AppServices) -> Response:
    """Return who pays the provider: Pharaoh (`managed`) or the organization, with its own key (`byo`).

    The response has an ETag for `If-Match` of the next switch.
    """
    return _respond(await services[UsageModeService].read(caller.organization_id))


@router.put(
    "/usage-mode",
    response_model=UsageModeState,
    operation_id="setUsageMode",
    summary="Switch the usage mode",
    response_description="The active usage mode and the scheduled change.",
    responses=response_headers("ETag")
    | problems(
        InvalidInput,
        InsufficientScope,
        NotFound,
        CredentialDeleted,
        PreconditionFailed,
        *BODY_ERRORS,
        codes={422: SWITCH_ERROR_CODES},
    ),
)
async def set_usage_mode(
    body: UsageModeSwitch, caller: BillingWriter, services: AppServices, revisions: Revisions
) -> Response:
    """Switch the usage mode now, or schedule the switch for `effective_at`.

    Usage events before the switch keep the mode that was active then. At most one change is scheduled:
    the next request replaces it, and an immediate switch cancels it, even a switch to the active mode.
    Repeating a request changes nothing.
    """
    state = await services[UsageModeService].switch(caller, requested_switch(body), revisions=revisions)
    return _respond(state)


@router.delete(
    "/usage-mode/scheduled",
    response_model=UsageModeState,
    operation_id="cancelScheduledUsageMode",
    summary="Cancel the scheduled switch",
    response_description="The active usage mode, without a scheduled change.",
    responses=response_headers("ETag") | problems(InsufficientScope, NotFound, PreconditionFailed),
)
async def cancel_scheduled_usage_mode(
    caller: BillingWriter, services: AppServices, revisions: Revisions
) -> Response:
    """Cancel the scheduled change of the usage mode. The active mode stays. Changes nothing if no change is scheduled."""
    return _respond(await services[UsageModeService].cancel_scheduled(caller, revisions=revisions))


@router.get(
    "/usage-mode/history",
    response_model=Page[UsageModeChange],
    operation_id="listUsageModeChanges",
    summary="List usage mode changes",
    response_description="One page of changes.",
    responses=problems(InvalidInput, InsufficientScope, NotFound, codes={422: ("page_invalid",)}),
)
async def list_usage_mode_changes(caller: BillingReader, services: AppServices, paging: Paging) -> Response:
    """List the changes that have taken effect, newest first. Before the oldest change the mode was `managed`."""
    before = paging.before_instant()
    changes = await services[UsageModeService].history(
        caller.organization_id, at_most=paging.at_most, before=before
    )
    return paging.respond(changes, UsageModeChange.of, _microseconds)


def requested_switch(body: UsageModeSwitch) -> ModeSwitch:
    """The request as the service takes it."""
    return ModeSwitch(mode=body.mode, credential_id=body.credential_id, effective_at=body.effective_at)


def _respond(state: State) -> Response:
    return respond(UsageModeState.of(state), headers={"ETag": etag(state.revision)})


def _microseconds(change: ModeChange) -> int:
    return change.microseconds
