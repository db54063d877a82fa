"""HTTP route of the audit log."""

from typing import Annotated
from uuid import UUID

from fastapi import Query, Response

from app.api.dependencies import AppServices, AuditReader, TimestampQuery
from app.api.pagination import Paging
from app.api.problems import problems
from app.api.routing import Router
from app.api.schemas import Page
from app.audit.events import AuditAction
from app.audit.events import AuditEvent as AuditRecord
from app.audit.schemas import AuditEvent
from app.audit.service import AuditService
from app.core.errors import InsufficientScope, InvalidInput, NotFound

router = Router(prefix="/v1/organizations/{organization_id}/audit-events", tags=["audit"])


@router.get(
    "",
    response_model=Page[AuditEvent],
    operation_id="listAuditEvents",
    response_description="One page of the audit log.",
    summary="List audit events",
    responses=problems(InvalidInput, InsufficientScope, NotFound, codes={422: ("page_invalid",)}),
)
async def list_audit_events(
    caller: AuditReader,
    services: AppServices,
    paging: Paging,
    credential_id: Annotated[UUID | None, Query(description="Only events of this credential.")] = None,
    action: Annotated[AuditAction | None, Query(description="Only events with this action.")] = None,
    actor: Annotated[
        str | None,
        Query(min_length=1, max_length=255, pattern=r"^[^\x00]*$", description="Only events by this actor."),
    ] = None,
    starting_at: Annotated[
        TimestampQuery | None, Query(description="Only events at or after this time.")
    ] = None,
    ending_at: Annotated[TimestampQuery | None, Query(description="Only events before this time.")] = None,
) -> Response:
    """List the audit events of the organization, newest first.

    The audit log is append-only. It contains key hints, never keys.
    """
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
    return paging.respond(events, AuditEvent.of, _id)


def _id(event: AuditRecord) -> UUID:
    return event.id
