"""The trail on the wire."""

from typing import Annotated
from uuid import UUID

from pydantic import Field

from app.api.schemas import Instant, ResponseModel, Subject
from app.audit.events import AuditAction
from app.audit.events import AuditEvent as AuditRecord


class AuditEvent(ResponseModel):
    """Who did what to which credential, and when."""

    id: Annotated[UUID, Field(examples=["0199a2b4-c9f1-7c55-8e0d-2b6f4a1d9e37"])]
    occurred_at: Instant
    action: AuditAction
    actor: Subject
    credential_id: Annotated[UUID | None, Field(examples=["0199a2b4-c6d8-7e01-a2b3-c4d5e6f70819"])]
    request_id: Annotated[
        str | None,
        Field(
            description="`X-Request-Id` of the request that did it; null for background jobs.",
            examples=["req_0199a2b4c6d87e01a2b3c4d5e6f70819"],
        ),
    ]
    details: Annotated[
        dict[str, str | int | bool | None],
        Field(
            description="Plain facts by kind of event: hints, versions and verdicts, never keys.",
            examples=[{"key_version": 1, "key_hint": "sk-ant-api03-R2D...igAA"}],
        ),
    ]

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
