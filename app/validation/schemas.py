"""Response models of validations."""

from typing import Annotated
from uuid import UUID

from pydantic import Field

from app.api.schemas import KeyVersion, ResponseModel, Subject, Timestamp
from app.credentials.validation_results import Trigger, ValidationRecord
from app.credentials.version_schemas import (
    Advice,
    CheckedAt,
    MaybeReason,
    OtherAuthStyle,
    ProviderRequestId,
    Status,
    advice_on_auth_style,
)


class Validation(ResponseModel):
    """One validation of one key version."""

    id: Annotated[UUID, Field(examples=["0199a2b4-d0aa-7b32-9c11-7a5e3f1d2b60"])]
    credential_id: UUID
    key_version: KeyVersion
    status: Status
    reason: MaybeReason
    checked_at: CheckedAt
    provider_request_id: ProviderRequestId
    other_auth_style: OtherAuthStyle
    message: Advice
    trigger: Trigger
    requested_by: Subject
    created_at: Timestamp

    @classmethod
    def of(cls, record: ValidationRecord) -> "Validation":
        return cls(
            id=record.id,
            credential_id=record.credential_id,
            key_version=record.key_version,
            status=record.result.status,
            reason=record.result.reason,
            checked_at=record.result.checked_at,
            provider_request_id=record.result.provider_request_id,
            other_auth_style=record.other_auth_style,
            message=advice_on_auth_style(record.other_auth_style),
            trigger=record.trigger,
            requested_by=record.requested_by,
            created_at=record.created_at,
        )
