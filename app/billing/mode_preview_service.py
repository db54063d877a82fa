"""The dry run of a usage mode switch."""

from datetime import datetime

from app.auth.principal import Caller
from app.billing.mode_preview import ModePreview, project
from app.billing.month import BillingMonth
from app.billing.repository import StatementRepository
from app.billing.statements import LineType
from app.core.admission import AdmissionQueue
from app.core.event_loop import in_slices
from app.database.unit_of_work import UnitsOfWork
from app.readiness.repository import ReadinessRepository
from app.spend_limits.repository import LimitRepository
from app.usage_mode.modes import ModeChange, UsageModeState
from app.usage_mode.repository import UsageModeRepository
from app.usage_mode.service import ModeSwitch, require_usable_credential, require_valid_time


class ModePreviewService:
    """Previews a switch of the usage mode."""

    def __init__(self, units: UnitsOfWork, admission: AdmissionQueue) -> None:
        self._units = units
        self._admission = admission

    async def preview(self, caller: Caller, requested: ModeSwitch) -> ModePreview:
        """What the switch would change, from one snapshot. The transaction is read-only.

        Raises:
            InvalidInput: the switch itself would be rejected too.
            CredentialDeleted, ConcurrencyLimited, DatabaseUnavailable
        """
        async with (
            self._admission.slot(caller.organization_id),
            self._units.reading_snapshot(caller.organization_id) as uow,
        ):
            await require_valid_time(uow, requested)
            await require_usable_credential(uow, requested)
            now = await uow[UsageModeRepository].clock()
            month = BillingMonth.of(now)
            current = await uow[UsageModeRepository].state()
            change = _change_of(caller, requested, now)
            inputs = await uow[StatementRepository].inputs([month], await uow[StatementRepository].closed())
            statement = await in_slices(inputs.statement_of(month), in_transaction=True)
            managed = [line for line in statement.lines if line.type is LineType.MANAGED_USAGE]
            return ModePreview(
                month=month,
                current=current,
                change=change,
                total_so_far=statement.total,
                managed_so_far=sum(line.amount for line in managed),
                projection=project(
                    now=now,
                    month=month,
                    cost_so_far=inputs.estimated(month),
                    managed_so_far=sum(line.exact for line in managed),
                    planned=current,
                    switched=_state_after(current, requested, change),
                ),
                limits=await uow[LimitRepository].all(),
                blockers=await uow[ReadinessRepository].blockers(requested.mode, requested.credential_id),
            )


def _change_of(caller: Caller, requested: ModeSwitch, now: datetime) -> ModeChange:
    return ModeChange(
        mode=requested.mode,
        credential_id=requested.credential_id,
        effective_from=requested.effective_at or now,
        changed_by=caller.subject,
    )


def _state_after(current: UsageModeState, requested: ModeSwitch, change: ModeChange) -> UsageModeState:
    """The state after the switch, which replaces the scheduled change."""
    if requested.effective_at is None:
        return UsageModeState(active=change, scheduled=None)
    return UsageModeState(active=current.active, scheduled=change)
