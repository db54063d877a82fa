"""Response model of the audit log."""

from typing import Annotated
from uuid import UUID

from pydantic import Field

from app.api.schemas import ResponseModel, Timestamp
from app.audit.events import AuditAction
from app.audit.events import AuditEvent as AuditRecord


class AuditEvent(ResponseModel):
    """An action of a user, a service or a background job: who did what, and when."""

    id: Annotated[UUID, Field(examples=["0199a2b4-c9f1-7c55-8e0d-2b6f4a1d9e37"])]
    occurred_at: Timestamp
    action: Annotated[
        AuditAction | str,
        Field(
            description="What was done, in the past tense. Later releases add actions, so accept unknown ones.",
            examples=[AuditAction.CREDENTIAL_CREATED.value],
        ),
    ]
    actor: Annotated[
        str,
        Field(
            description="The `sub` claim of the client's token. `system` for background work, `operator` for commands.",
            examples=["ada@acme.example"],
        ),
    ]
    credential_id: Annotated[UUID | None, Field(examples=["0199a2b4-c6d8-7e01-a2b3-c4d5e6f70819"])]
    request_id: Annotated[
        str | None,
        Field(
            description="`X-Request-Id` of the request. Null for background work and commands.",
            examples=["req_0199a2b4c6d87e01a2b3c4d5e6f70819"],
        ),
    ]
    details: Annotated[
        dict[str, str | int | bool | None],
        Field(
            description="Details that depend on the action, such as the key hint, the key version or the validation"
            " status. Never a key.",
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
