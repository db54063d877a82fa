"""Usage mode and readiness on the wire."""

from typing import Annotated
from uuid import UUID

from pydantic import Field

from app.api.schemas import GivenInstant, Instant, RequestModel, ResponseModel, Subject
from app.usage_mode.modes import UsageMode, UsageModePoint
from app.usage_mode.modes import UsageModeState as State

Mode = Annotated[UsageMode, Field(examples=[UsageMode.BYO.value])]
CredentialInForce = Annotated[
    UUID | None,
    Field(
        description="With `byo`: whose key pays; null while none is saved yet, and always with `managed`.",
        examples=["0199a2b4-c6d8-7e01-a2b3-c4d5e6f70819"],
    ),
]
Since = Annotated[
    Instant | None, Field(description="Null: it always was.", examples=["2026-11-23T14:05:06.123456Z"])
]


class UsageModeSwitch(RequestModel):
    """Which mode to switch to."""

    mode: Mode
    credential_id: CredentialInForce = None
    effective_at: Annotated[
        GivenInstant | None, Field(description="Null: now. Otherwise a time to come, a year ahead at most.")
    ] = None


class ScheduledSwitch(ResponseModel):
    """A switch that is still to come."""

    mode: Mode
    credential_id: CredentialInForce
    effective_at: Instant

    @classmethod
    def of(cls, point: UsageModePoint) -> "ScheduledSwitch":
        assert point.effective_from is not None
        return cls(mode=point.mode, credential_id=point.credential_id, effective_at=point.effective_from)


class UsageModeState(ResponseModel):
    """The mode in force, and the switch to come."""

    mode: Mode
    credential_id: CredentialInForce
    effective_from: Since
    effective_at: Since
    scheduled: Annotated[ScheduledSwitch | None, Field(description="Null: none.", examples=[None])]

    @classmethod
    def of(cls, state: State) -> "UsageModeState":
        point, coming = state.in_force, state.scheduled
        return cls(
            mode=point.mode,
            credential_id=point.credential_id,
            effective_from=point.effective_from,
            effective_at=point.effective_from,
            scheduled=None if coming is None else ScheduledSwitch.of(coming),
        )


class UsageModeChange(ResponseModel):
    """A point of the timeline. It counts from its instant, inclusive."""

    mode: Mode
    credential_id: CredentialInForce
    effective_from: Since
    changed_by: Subject | None

    @classmethod
    def of(cls, point: UsageModePoint) -> "UsageModeChange":
        return cls(
            mode=point.mode,
            credential_id=point.credential_id,
            effective_from=point.effective_from,
            changed_by=point.changed_by,
        )
