"""Verdicts on the wire."""

from typing import Annotated

from pydantic import Field

from app.api.schemas import Instant, KeyVersion, ResponseModel
from app.credentials.verdicts import Reason, ValidationStatus, Verdict

Status = Annotated[ValidationStatus, Field(examples=[ValidationStatus.VALID.value])]


MaybeReason = Annotated[Reason | None, Field(description="Null while pending.", examples=[Reason.OK.value])]


CheckedAt = Annotated[
    Instant | None, Field(description="Null while pending.", examples=["2026-11-23T14:05:06.123456Z"])
]


ProviderRequestId = Annotated[
    str | None,
    Field(
        description="Anthropic's own id of the request. Quote it in their support. Null for other providers.",
        examples=["req_011CSHoEeqs5C35K2UUqR7Fy"],
    ),
]


class LatestAttempt(ResponseModel):
    """What the last attempt found, definite or not."""

    status: Status
    reason: MaybeReason
    checked_at: CheckedAt

    @classmethod
    def of(cls, verdict: Verdict) -> "LatestAttempt":
        return cls(status=verdict.status, reason=verdict.reason, checked_at=verdict.checked_at)


class CredentialVerdict(ResponseModel):
    """The last definite verdict on the key in use; pending or indeterminate only while there is none."""

    status: Status
    reason: MaybeReason
    checked_at: CheckedAt
    key_version: KeyVersion
    provider_request_id: ProviderRequestId
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
