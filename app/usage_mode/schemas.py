"""Request and response models of the usage mode."""

from typing import Annotated
from uuid import UUID

from pydantic import Field

from app.api.schemas import InputTimestamp, RequestModel, ResponseModel, Subject, Timestamp
from app.usage_mode.modes import ModeChange, UsageMode
from app.usage_mode.modes import UsageModeState as State

Mode = Annotated[UsageMode, Field(examples=[UsageMode.BYO.value])]
PayingCredentialId = Annotated[
    UUID | None,
    Field(
        description="The credential whose key pays with `byo`. Null if no key is saved yet, and always null with"
        " `managed`.",
        examples=["0199a2b4-c6d8-7e01-a2b3-c4d5e6f70819"],
    ),
]
EffectiveTime = Annotated[
    Timestamp | None,
    Field(
        description="Null for the initial mode of an organization.", examples=["2026-11-23T14:05:06.123456Z"]
    ),
]
ChangedAt = Annotated[
    Timestamp | None,
    Field(
        description="When the change was requested. Null for changes of earlier releases, which did not record it.",
        examples=["2026-11-20T09:00:00.123456Z"],
    ),
]


class UsageModeSwitch(RequestModel):
    """The usage mode to switch to."""

    mode: Mode
    credential_id: PayingCredentialId = None
    effective_at: Annotated[
        InputTimestamp | None,
        Field(
            description="Null switches now. A time in the future, at most 366 days ahead, schedules the switch."
        ),
    ] = None


class ScheduledSwitch(ResponseModel):
    """A scheduled change of the usage mode. It has not taken effect yet."""

    mode: Mode
    credential_id: PayingCredentialId
    effective_at: Timestamp
    changed_by: Annotated[
        Subject | None, Field(description="Who scheduled it.", examples=["ada@acme.example"])
    ]
    changed_at: ChangedAt

    @classmethod
    def of(cls, change: ModeChange) -> "ScheduledSwitch":
        assert change.effective_from is not None
        return cls(
            mode=change.mode,
            credential_id=change.credential_id,
            effective_at=change.effective_from,
            changed_by=change.changed_by,
            changed_at=change.changed_at,
        )


class UsageModeState(ResponseModel):
    """The active usage mode and the scheduled change."""

    mode: Mode
    credential_id: PayingCredentialId
    effective_from: EffectiveTime
    effective_at: EffectiveTime
    scheduled: Annotated[
        ScheduledSwitch | None, Field(description="Null if no change is scheduled.", examples=[None])
    ]

    @classmethod
    def of(cls, state: State) -> "UsageModeState":
        change, scheduled = state.active, state.scheduled
        return cls(
            mode=change.mode,
            credential_id=change.credential_id,
            effective_from=change.effective_from,
            effective_at=change.effective_from,
            scheduled=None if scheduled is None else ScheduledSwitch.of(scheduled),
        )


class UsageModeChange(ResponseModel):
    """An entry of the usage mode history. It applies from `effective_from`, inclusive, until the next entry."""

    mode: Mode
    credential_id: PayingCredentialId
    effective_from: EffectiveTime
    changed_by: Subject | None
    changed_at: ChangedAt

    @classmethod
    def of(cls, change: ModeChange) -> "UsageModeChange":
        return cls(
            mode=change.mode,
            credential_id=change.credential_id,
            effective_from=change.effective_from,
            changed_by=change.changed_by,
            changed_at=change.changed_at,
        )
