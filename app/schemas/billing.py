"""Usage mode and readiness on the wire."""

from typing import Annotated
from uuid import UUID

from pydantic import AwareDatetime, Field

from app.domain.billing import Blocker, UsageMode, UsageModePoint
from app.domain.billing import Readiness as ReadinessRecord
from app.schemas.base import Instant, RequestModel, ResponseModel


class UsageModeSwitch(RequestModel):
    """Which mode to switch to."""

    mode: UsageMode
    credential_id: Annotated[
        UUID | None, Field(description="With `byo`: whose key pays; null while none is saved yet.")
    ] = None
    effective_at: Annotated[AwareDatetime | None, Field(description="Null: now.")] = None


class ScheduledSwitch(ResponseModel):
    """A switch that is still to come."""

    mode: UsageMode
    credential_id: UUID | None
    effective_at: Instant


class UsageModeState(ResponseModel):
    """The mode in force."""

    mode: UsageMode
    credential_id: UUID | None
    effective_from: Annotated[Instant | None, Field(description="Null: always was.")]
    effective_at: Annotated[Instant | None, Field(description="When the switch took force.")]
    scheduled: ScheduledSwitch | None

    @classmethod
    def of(cls, point: UsageModePoint) -> "UsageModeState":
        return cls(
            mode=point.mode,
            credential_id=point.credential_id,
            effective_from=point.effective_from,
            effective_at=point.effective_from,
            scheduled=None,
        )


class UsageModeChange(ResponseModel):
    """A point of the timeline. It counts from its instant, inclusive."""

    mode: UsageMode
    credential_id: UUID | None
    effective_from: Instant | None
    changed_by: str | None

    @classmethod
    def of(cls, point: UsageModePoint) -> "UsageModeChange":
        return cls(
            mode=point.mode,
            credential_id=point.credential_id,
            effective_from=point.effective_from,
            changed_by=point.changed_by,
        )


class Readiness(ResponseModel):
    """Whether provider-backed work may start. There is no fallback between modes."""

    ready: bool
    mode: UsageMode
    credential_id: UUID | None
    blockers: list[Blocker]

    @classmethod
    def of(cls, record: ReadinessRecord) -> "Readiness":
        return cls(
            ready=record.is_ready,
            mode=record.mode,
            credential_id=record.credential_id,
            blockers=list(record.blockers),
        )
