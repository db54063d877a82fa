"""The dry run of a switch on the wire."""

from typing import Annotated
from uuid import UUID

from pydantic import Field

from app.api.money import Money
from app.api.schemas import Instant, ResponseModel
from app.billing import mode_preview as d
from app.billing.schemas import Month
from app.readiness.readiness import Blocker
from app.spend_limits.limits import LimitMode
from app.usage_mode.schemas import CredentialInForce, Mode, ScheduledSwitch


class StatementSoFar(ResponseModel):
    """This month's statement as it stands. No switch takes anything away from it."""

    month: Month
    total: Money
    managed_usage: Annotated[Money, Field(description="Stays billed, whatever is switched.")]


class ManagedUsageProjection(ResponseModel):
    """A projection, not a bill: all usage goes on at this month's rate so far, whoever pays for it."""

    managed_usage_as_planned: Annotated[
        Money, Field(description="For the whole month, with what is in force and scheduled now.")
    ]
    managed_usage_after_switch: Annotated[Money, Field(description="For the whole month, with the switch.")]
    difference: Annotated[
        Money,
        Field(
            description="Negative: avoided. Positive: added.",
            examples=[{"amount": "-41.20", "currency": "USD"}],
        ),
    ]


class LimitUnderSwitch(ResponseModel):
    """Whether a spend limit counts what is used now, and what would be after the switch."""

    id: UUID
    name: Annotated[str, Field(examples=["All of November"])]
    usage_mode: Annotated[LimitMode, Field(examples=["managed"])]
    counts_now: Annotated[bool, Field(examples=[True])]
    counts_after_switch: Annotated[bool, Field(examples=[False])]


class UsageModePreview(ResponseModel):
    """What the switch would change. Nothing was changed."""

    mode: Mode
    credential_id: CredentialInForce
    effective_at: Instant
    replaces: Annotated[
        ScheduledSwitch | None, Field(description="The scheduled switch that it would replace.")
    ]
    statement: StatementSoFar
    projection: ManagedUsageProjection
    spend_limits: list[LimitUnderSwitch]
    blockers: Annotated[
        list[Blocker],
        Field(
            description="What would keep work from starting, as things are now.",
            examples=[[Blocker.CREDENTIAL_NOT_VALID.value]],
        ),
    ]

    @classmethod
    def of(cls, preview: d.ModePreview) -> "UsageModePreview":
        point, coming = preview.point, preview.current.scheduled
        assert point.effective_from is not None
        return cls(
            mode=point.mode,
            credential_id=point.credential_id,
            effective_at=point.effective_from,
            replaces=None if coming is None else ScheduledSwitch.of(coming),
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
                    counts_now=limit.terms.scope.mode.covers(preview.current.in_force.mode),
                    counts_after_switch=limit.terms.scope.mode.covers(point.mode),
                )
                for limit in preview.limits
            ],
            blockers=list(preview.blockers),
        )
