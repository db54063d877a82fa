"""Read and switch the usage mode; ask whether work may start."""

from datetime import UTC, datetime

from fastapi import APIRouter, Response

from app.domain.billing import UsageModePoint
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
from app.routers.problems import problems
from app.schemas.base import Page
from app.schemas.billing import OrganizationReadiness, UsageModeChange, UsageModeState, UsageModeSwitch
from app.services.billing import revision_of

router = APIRouter(prefix="/v1/organizations/{organization_id}", tags=["billing"])


@router.get(
    "/usage-mode",
    response_model=UsageModeState,
    operation_id="getUsageMode",
    summary="Read the usage mode",
    response_description="The mode in force.",
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
    response_description="The mode in force now.",
    responses=problems(
        InvalidInput,
        InsufficientScope,
        NotFound,
        CredentialDeleted,
        PreconditionFailed,
        400,
        413,
        415,
        codes={
            422: (
                "unknown_field",
                "credential_not_found",
                "credential_not_used",
                "effective_at_in_past",
                "scheduling_unavailable",
            )
        },
    ),
)
async def set_usage_mode(
    body: UsageModeSwitch, caller: BillingWriter, services: ServicesOfApp, revisions: Revisions
) -> Response:
    """Takes force at once and counts from that instant on. Rows of the past keep the mode they ran under."""
    if body.effective_at is not None:
        _refuse_time(body.effective_at)
    return _answer(await services.billing.switch(caller, body.mode, body.credential_id, revisions=revisions))


@router.get(
    "/usage-mode/history",
    response_model=Page[UsageModeChange],
    operation_id="listUsageModeChanges",
    summary="List changes of the usage mode",
    response_description="A page of changes.",
    responses=problems(InvalidInput, InsufficientScope, NotFound, codes={422: ("page_invalid",)}),
)
async def list_usage_mode_changes(caller: BillingReader, services: ServicesOfApp, paging: Paging) -> Response:
    """The newest first. Before the oldest the organization was managed."""
    before = paging.before_instant()
    points = await services.billing.history(caller.organization_id, at_most=paging.at_most, before=before)
    return paging.answer(points, UsageModeChange.of, _instant)


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


def _answer(point: UsageModePoint) -> Response:
    return answer(UsageModeState.of(point), headers={"ETag": etag(revision_of(point))})


def _instant(point: UsageModePoint) -> int:
    return revision_of(point)


def _refuse_time(effective_at: datetime) -> None:
    if effective_at < datetime.now(UTC):
        raise InvalidInput.of(
            "effective_at",
            "effective_at_in_past",
            "A switch counts from now on or later, never from the past.",
        )
    raise InvalidInput.of(
        "effective_at",
        "scheduling_unavailable",
        "Scheduled switches are not available yet. Leave effective_at out.",
    )
