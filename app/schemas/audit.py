"""The trail on the wire."""

from uuid import UUID

from app.domain.audit import AuditAction
from app.domain.audit import AuditEvent as AuditRecord
from app.schemas.base import Instant, ResponseModel


class AuditEvent(ResponseModel):
    """Who did what to which credential, and when."""

    id: UUID
    occurred_at: Instant
    action: AuditAction
    actor: str
    credential_id: UUID | None
    request_id: str | None
    details: dict[str, str | int | bool | None]

    @classmethod
    def of(cls, event: AuditRecord) -> "AuditEvent":
        return cls(
            id=event.id,
            occurred_at=event.occurred_at,
            action=event.action,
            actor=event.actor,
            credential_id=event.credential_id,
            request_id=event.request_id,
            details=event.details,
        )
