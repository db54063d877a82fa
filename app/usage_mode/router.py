"""Read and switch the usage mode; ask whether work may start."""

from fastapi import APIRouter, Response

from app.api.dependencies import BillingReader, BillingWriter, Revisions, ServicesOfApp, etag
from app.api.pagination import Paging
from app.api.problems import OF_BODIES, problems
from app.api.responses import answer
from app.api.schemas import Page
from app.core.errors import CredentialDeleted, InsufficientScope, InvalidInput, NotFound, PreconditionFailed
from app.usage_mode.modes import UsageModePoint
from app.usage_mode.modes import UsageModeState as State
from app.usage_mode.schemas import UsageModeChange, UsageModeState, UsageModeSwitch
from app.usage_mode.service import ModeSwitch, UsageModeService

router = APIRouter(prefix="/v1/organizations/{organization_id}", tags=["billing"])

REFUSED_SWITCHES = (
    *("unknown_field", "credential_not_found", "credential_not_used"),
    *("effective_at_in_past", "effective_at_too_far"),
)


@router.get(
    "/usage-mode",
    response_model=UsageModeState,
    operation_id="getUsageMode",
    summary="Read the usage mode",
    response_description="The mode in force, and the switch to come.",
    responses=problems(InsufficientScope, NotFound),
)
async def get_usage_mode(caller: BillingReader, services: ServicesOfApp) -> Response:
    """Who pays the provider: Pharaoh (`managed`) or the organization's own key (`byo`)."""
    return _answer(await services[UsageModeService].read(caller.organization_id))


@router.put(
    "/usage-mode",
    response_model=UsageModeState,
    operation_id="setUsageMode",
    summary="Switch the usage mode",
    response_description="The mode in force, and the switch to come.",
    responses=problems(
        InvalidInput,
        InsufficientScope,
        NotFound,
        CredentialDeleted,
        PreconditionFailed,
        *OF_BODIES,
        codes={422: REFUSED_SWITCHES},
    ),
)
async def set_usage_mode(
    body: UsageModeSwitch, caller: BillingWriter, services: ServicesOfApp, revisions: Revisions
) -> Response:
    """Counts from its instant on: now, or `effective_at`. Rows of the past keep the mode they ran under.

    One switch at a time can be scheduled. Whatever is put next replaces it; an immediate switch, also
    to the mode in force, leaves none.
    """
    return _answer(await services[UsageModeService].switch(caller, wish_of(body), revisions=revisions))


@router.get(
    "/usage-mode/history",
    response_model=Page[UsageModeChange],
    operation_id="listUsageModeChanges",
    summary="List changes of the usage mode",
    response_description="A page of changes.",
    responses=problems(InvalidInput, InsufficientScope, NotFound, codes={422: ("page_invalid",)}),
)
async def list_usage_mode_changes(caller: BillingReader, services: ServicesOfApp, paging: Paging) -> Response:
    """Those that have begun, the newest first. Before the oldest the organization was managed."""
    before = paging.before_instant()
    points = await services[UsageModeService].history(
        caller.organization_id, at_most=paging.at_most, before=before
    )
    return paging.answer(points, UsageModeChange.of, _instant)


def wish_of(body: UsageModeSwitch) -> ModeSwitch:
    return ModeSwitch(mode=body.mode, credential_id=body.credential_id, effective_at=body.effective_at)


def _answer(state: State) -> Response:
    return answer(UsageModeState.of(state), headers={"ETag": etag(state.revision)})


def _instant(point: UsageModePoint) -> int:
    return point.microseconds
