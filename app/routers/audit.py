"""Who did what to which credential."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from app.domain.audit import AuditAction
from app.domain.audit import AuditEvent as AuditRecord
from app.domain.errors import InsufficientScope, InvalidInput, NotFound
from app.routers.dependencies import AuditReader, InstantQuery, ServicesOfApp
from app.routers.pages import Paging
from app.routers.problems import problems
from app.schemas.audit import AuditEvent
from app.schemas.base import Page

router = APIRouter(prefix="/v1/organizations/{organization_id}/audit-events", tags=["audit"])


@router.get(
    "",
    response_model=Page[AuditEvent],
    operation_id="listAuditEvents",
    response_description="One page of the trail.",
    summary="List audit events",
    responses=problems(InvalidInput, InsufficientScope, NotFound, codes={422: ("page_invalid",)}),
)
async def list_audit_events(
    caller: AuditReader,
    services: ServicesOfApp,
    paging: Paging,
    credential_id: Annotated[UUID | None, Query(description="Only those of this credential.")] = None,
    action: Annotated[AuditAction | None, Query(description="Only those of this kind.")] = None,
    actor: Annotated[
        str | None,
        Query(min_length=1, max_length=255, pattern=r"^[^\x00]*$", description="Only those by this subject."),
    ] = None,
    starting_at: Annotated[InstantQuery | None, Query(description="From this instant on, inclusive.")] = None,
    ending_at: Annotated[InstantQuery | None, Query(description="Up to this instant, exclusive.")] = None,
) -> Response:
    """The newest first. The trail is append-only and holds hints, never keys."""
    events = await services.audit.page(
        caller.organization_id,
        at_most=paging.at_most,
        before=paging.before_id(),
        credential_id=credential_id,
        action=action,
        actor=actor,
        starting_at=starting_at,
        ending_at=ending_at,
    )
    return paging.answer(events, AuditEvent.of, _id)


def _id(event: AuditRecord) -> UUID:
    return event.id
