"""Verdicts on the wire."""

from typing import Annotated
from uuid import UUID

from pydantic import Field

from app.api.schemas import Instant, KeyVersion, ResponseModel, Subject
from app.credentials.verdict_schemas import CheckedAt, MaybeReason, ProviderRequestId, Status
from app.credentials.verdicts import Trigger, ValidationRecord


class Validation(ResponseModel):
    """One check of one key version."""

    id: Annotated[UUID, Field(examples=["0199a2b4-d0aa-7b32-9c11-7a5e3f1d2b60"])]
    credential_id: UUID
    key_version: KeyVersion
    status: Status
    reason: MaybeReason
    checked_at: CheckedAt
    provider_request_id: ProviderRequestId
    trigger: Trigger
    requested_by: Subject
    created_at: Instant

    @classmethod
    def of(cls, record: ValidationRecord) -> "Validation":
        return cls(
            id=record.id,
            credential_id=record.credential_id,
            key_version=record.key_version,
            status=record.verdict.status,
            reason=record.verdict.reason,
            checked_at=record.verdict.checked_at,
            provider_request_id=record.verdict.provider_request_id,
            trigger=record.trigger,
            requested_by=record.requested_by,
            created_at=record.created_at,
        )
