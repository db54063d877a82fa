"""Readiness on the wire."""

from typing import Annotated

from pydantic import Field

from app.api.schemas import ResponseModel
from app.readiness.readiness import Blocker, Readiness
from app.usage_mode.schemas import (
    CredentialInForce,
    Mode,
)


class OrganizationReadiness(ResponseModel):
    """Whether provider-backed work may start. There is no fallback between modes."""

    ready: Annotated[bool, Field(examples=[False])]
    mode: Mode
    credential_id: CredentialInForce
    blockers: Annotated[list[Blocker], Field(examples=[[Blocker.CREDENTIAL_NOT_VALID.value]])]

    @classmethod
    def of(cls, record: Readiness) -> "OrganizationReadiness":
        return cls(
            ready=record.is_ready,
            mode=record.mode,
            credential_id=record.credential_id,
            blockers=list(record.blockers),
        )
