"""Verdicts on the wire."""

from typing import Annotated
from uuid import UUID

from pydantic import Field

from app.domain.validation import Reason, Trigger, ValidationRecord, ValidationStatus, Verdict
from app.schemas.base import Instant, ResponseModel


class LatestAttempt(ResponseModel):
    """What the last attempt found, definite or not."""

    status: ValidationStatus
    reason: Reason | None
    checked_at: Instant | None

    @classmethod
    def of(cls, verdict: Verdict) -> "LatestAttempt":
        return cls(status=verdict.status, reason=verdict.reason, checked_at=verdict.checked_at)


class CredentialVerdict(ResponseModel):
    """The last definite verdict on the key in use; pending or indeterminate only while there is none."""

    status: ValidationStatus
    reason: Reason | None
    checked_at: Instant | None
    key_version: int
    provider_request_id: Annotated[
        str | None, Field(description="The provider's own id of the request. Quote it in their support.")
    ]
    latest: LatestAttempt

    @classmethod
    def of(cls, verdict: Verdict, latest: Verdict, key_version: int) -> "CredentialVerdict":
        return cls(
            status=verdict.status,
            reason=verdict.reason,
            checked_at=verdict.checked_at,
            key_version=key_version,
            provider_request_id=verdict.provider_request_id,
            latest=LatestAttempt.of(latest),
        )


class Validation(ResponseModel):
    """One check of one key version."""

    id: UUID
    credential_id: UUID
    key_version: int
    status: ValidationStatus
    reason: Reason | None
    checked_at: Instant | None
    provider_request_id: str | None
    trigger: Trigger
    requested_by: str
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
