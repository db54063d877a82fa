"""Response model of readiness."""

from typing import Annotated
from uuid import UUID

from pydantic import Field

from app.api.schemas import ResponseModel, Timestamp
from app.credentials.validation_results import Reason
from app.readiness.readiness import Blocker, BlockerDetail, Readiness
from app.usage_mode.schemas import (
    Mode,
    PayingCredentialId,
)


class BlockerDetails(ResponseModel):
    """What is behind one blocker. Fields that do not apply are null."""

    code: Blocker
    credential_id: PayingCredentialId
    reason: Annotated[
        Reason | None,
        Field(description="With `credential_not_valid`: the reason of the last definite result."),
    ]
    limit_id: UUID | None
    limit_name: str | None
    period_ends_at: Annotated[
        Timestamp | None, Field(description="When the limit's period ends. Null for a total limit.")
    ]

    @classmethod
    def of(cls, detail: BlockerDetail) -> "BlockerDetails":
        return cls(
            code=detail.code,
            credential_id=detail.credential_id,
            reason=detail.reason,
            limit_id=detail.limit_id,
            limit_name=detail.limit_name,
            period_ends_at=detail.period_ends_at,
        )


class OrganizationReadiness(ResponseModel):
    """Whether provider-backed work may start, and what blocks it."""

    ready: Annotated[bool, Field(examples=[False])]
    mode: Mode
    credential_id: PayingCredentialId
    blockers: Annotated[list[Blocker], Field(examples=[[Blocker.CREDENTIAL_NOT_VALID.value]])]
    details: Annotated[
        list[BlockerDetails],
        Field(description="One entry for each blocker, and one for each spend limit that is used up."),
    ]

    @classmethod
    def of(cls, record: Readiness) -> "OrganizationReadiness":
        return cls(
            ready=record.is_ready,
            mode=record.mode,
            credential_id=record.credential_id,
            blockers=list(record.blockers),
            details=[BlockerDetails.of(detail) for detail in record.details],
        )
