"""Read and switch the usage mode; ask whether work may start."""

from fastapi import APIRouter, Response

from app.domain.billing import UsageModePoint
from app.domain.billing import UsageModeState as State
from app.domain.errors import (
    CredentialDeleted,
    InsufficientScope,
    InvalidInput,
    NotFound,
    PreconditionFailed,
)
from app.routers.answers import answer
from app.routers.dependencies import BillingReader, BillingWriter, Revisions, ServicesOfApp, etag
from app.routers.pages import Paging
from app.routers.problems import OF_BODIES, problems
from app.schemas.base import Page
from app.schemas.billing import OrganizationReadiness, UsageModeChange, UsageModeState, UsageModeSwitch
from app.schemas.mode_previews import UsageModePreview
from app.services.billing import Wish

router = APIRouter(prefix="/v1/organizations/{organization_id}", tags=["billing"])

_REFUSED_SWITCHES = (
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
    return _answer(await services.billing.read(caller.organization_id))


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
        codes={422: _REFUSED_SWITCHES},
    ),
)
async def set_usage_mode(
    body: UsageModeSwitch, caller: BillingWriter, services: ServicesOfApp, revisions: Revisions
) -> Response:
    """Counts from its instant on: now, or `effective_at`. Rows of the past keep the mode they ran under.

    One switch at a time can be scheduled. Whatever is put next replaces it; an immediate switch, also
    to the mode in force, leaves none.
    """
    return _answer(await services.billing.switch(caller, _wish(body), revisions=revisions))


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
    points = await services.billing.history(caller.organization_id, at_most=paging.at_most, before=before)
    return paging.answer(points, UsageModeChange.of, _instant)


@router.post(
    "/usage-mode/preview",
    response_model=UsageModePreview,
    operation_id="previewUsageMode",
    summary="Try a switch of the usage mode",
    response_description="What it would change.",
    responses=problems(
        InvalidInput,
        InsufficientScope,
        NotFound,
        CredentialDeleted,
        *OF_BODIES,
        codes={422: _REFUSED_SWITCHES},
    ),
)
async def preview_usage_mode(
    body: UsageModeSwitch, caller: BillingReader, services: ServicesOfApp
) -> Response:
    """A dry run: this month's statement, a projection of managed usage, spend limits, and blockers. Writes nothing."""
    return answer(UsageModePreview.of(await services.mode_previews.preview(caller, _wish(body))))


@router.get(
    "/readiness",
    response_model=OrganizationReadiness,
    operation_id="getOrganizationReadiness",
    summary="May provider-backed work start?",
    response_description="Whether work may start, and what is in the way.",
    responses=problems(InsufficientScope, NotFound),
)
async def get_readiness(caller: BillingReader, services: ServicesOfApp) -> Response:
    """Ask before starting work. Every blocker is named; there is no fallback between modes."""
    return answer(OrganizationReadiness.of(await services.billing.readiness(caller.organization_id)))


def _wish(body: UsageModeSwitch) -> Wish:
    return Wish(mode=body.mode, credential_id=body.credential_id, effective_at=body.effective_at)


def _answer(state: State) -> Response:
    return answer(UsageModeState.of(state), headers={"ETag": etag(state.revision)})


def _instant(point: UsageModePoint) -> int:
    return point.microseconds
