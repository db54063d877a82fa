"""Who did what to which credential."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from app.api.dependencies import AuditReader, InstantQuery, ServicesOfApp
from app.api.pagination import Paging
from app.api.problems import problems
from app.api.schemas import Page
from app.audit.events import AuditAction
from app.audit.events import AuditEvent as AuditRecord
from app.audit.schemas import AuditEvent
from app.audit.service import AuditService
from app.core.errors import InsufficientScope, InvalidInput, NotFound

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
    events = await services[AuditService].page(
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
