"""Response models of the preview of a usage mode switch."""

from typing import Annotated
from uuid import UUID

from pydantic import Field

from app.api.money import Money
from app.api.schemas import ResponseModel, Timestamp
from app.billing import mode_preview as d
from app.billing.schemas import Month
from app.readiness.readiness import Blocker
from app.spend_limits.limits import LimitMode
from app.usage_mode.schemas import Mode, PayingCredentialId, ScheduledSwitch


class StatementSoFar(ResponseModel):
    """The current statement of this month. A switch does not change what it contains so far."""

    month: Month
    total: Money
    managed_usage: Annotated[
        Money, Field(description="Managed usage so far. It is billed even after a switch.")
    ]


class ManagedUsageProjection(ResponseModel):
    """An estimate, not a bill. It assumes that all usage, in both modes, continues at this month's rate so far."""

    managed_usage_as_planned: Annotated[
        Money, Field(description="For the whole month, with the active mode and the scheduled change.")
    ]
    managed_usage_after_switch: Annotated[Money, Field(description="For the whole month, after the switch.")]
    difference: Annotated[
        Money,
        Field(
            description="`managed_usage_after_switch` minus `managed_usage_as_planned`.",
            examples=[{"amount": "-41.20", "currency": "USD"}],
        ),
    ]


class LimitUnderSwitch(ResponseModel):
    """Whether a spend limit counts usage in the active mode, and in the mode after the switch."""

    id: UUID
    name: Annotated[str, Field(examples=["All of November"])]
    usage_mode: Annotated[LimitMode, Field(examples=["managed"])]
    counts_now: Annotated[bool, Field(examples=[True])]
    counts_after_switch: Annotated[bool, Field(examples=[False])]


class UsageModePreview(ResponseModel):
    """What the switch would change. The preview changes nothing."""

    mode: Mode
    credential_id: PayingCredentialId
    effective_at: Timestamp
    replaces: Annotated[
        ScheduledSwitch | None, Field(description="The scheduled change that the switch would replace.")
    ]
    statement: StatementSoFar
    projection: ManagedUsageProjection
    spend_limits: list[LimitUnderSwitch]
    blockers: Annotated[
        list[Blocker],
        Field(
            description="The blockers that there would be now in the mode after the switch.",
            examples=[[Blocker.CREDENTIAL_NOT_VALID.value]],
        ),
    ]

    @classmethod
    def of(cls, preview: d.ModePreview) -> "UsageModePreview":
        change, scheduled = preview.change, preview.current.scheduled
        assert change.effective_from is not None
        return cls(
            mode=change.mode,
            credential_id=change.credential_id,
            effective_at=change.effective_from,
            replaces=None if scheduled is None else ScheduledSwitch.of(scheduled),
            statement=StatementSoFar(
                month=str(preview.month),
                total=Money.of(preview.total_so_far),
                managed_usage=Money.of(preview.managed_so_far),
            ),
            projection=ManagedUsageProjection(
                managed_usage_as_planned=Money.of(preview.projection.as_planned),
                managed_usage_after_switch=Money.of(preview.projection.after_switch),
                difference=Money.of(preview.projection.difference),
            ),
            spend_limits=[
                LimitUnderSwitch(
                    id=limit.id,
                    name=limit.terms.name,
                    usage_mode=limit.terms.scope.mode,
                    counts_now=limit.terms.scope.mode.covers(preview.current.active.mode),
                    counts_after_switch=limit.terms.scope.mode.covers(change.mode),
                )
                for limit in preview.limits
            ],
            blockers=list(preview.blockers),
        )
