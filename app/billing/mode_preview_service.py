"""The dry run of a switch of the usage mode: what it would change, and nothing is changed."""

from datetime import datetime

from app.auth.principal import Caller
from app.billing.mode_preview import ModePreview, project
from app.billing.month import BillingMonth
from app.billing.repository import StatementRepository
from app.billing.statements import LineType
from app.database.unit_of_work import UnitsOfWork
from app.readiness.repository import ReadinessRepository
from app.spend_limits.repository import LimitRepository
from app.usage_mode.modes import UsageModePoint, UsageModeState
from app.usage_mode.repository import UsageModeRepository
from app.usage_mode.service import ModeSwitch, check_names, check_time


class ModePreviewService:
    """Refuses what the switch itself would refuse."""

    def __init__(self, units: UnitsOfWork) -> None:
        self._units = units

    async def preview(self, caller: Caller, wish: ModeSwitch) -> ModePreview:
        """As of one instant. Read-only: the database itself refuses writes in it.

        Raises:
            InvalidInput, CredentialDeleted, DatabaseUnavailable
        """
        async with self._units.reading(caller.organization_id) as uow:
            await uow[StatementRepository].take_snapshot()
            await check_time(uow, wish)
            await check_names(uow, wish)
            now = await uow[UsageModeRepository].clock()
            month = BillingMonth.of(now)
            current = await uow[UsageModeRepository].state()
            point = _point(caller, wish, now)
            books = await uow[StatementRepository].books([month], await uow[StatementRepository].closed())
            statement = books.statement_of(month)
            managed = [line for line in statement.lines if line.type is LineType.MANAGED_USAGE]
            return ModePreview(
                month=month,
                current=current,
                point=point,
                total_so_far=statement.total,
                managed_so_far=sum(line.amount for line in managed),
                projection=project(
                    now=now,
                    month=month,
                    cost_so_far=books.estimated(month),
                    managed_so_far=sum(line.exact for line in managed),
                    planned=current,
                    switched=_switched(current, wish, point),
                ),
                limits=await uow[LimitRepository].all(),
                blockers=await uow[ReadinessRepository].blockers(wish.mode, wish.credential_id),
            )


def _point(caller: Caller, wish: ModeSwitch, now: datetime) -> UsageModePoint:
    return UsageModePoint(
        mode=wish.mode,
        credential_id=wish.credential_id,
        effective_from=wish.effective_at or now,
        changed_by=caller.subject,
    )


def _switched(current: UsageModeState, wish: ModeSwitch, point: UsageModePoint) -> UsageModeState:
    """Either kind of switch replaces the one to come."""
    if wish.effective_at is None:
        return UsageModeState(in_force=point, scheduled=None)
    return UsageModeState(in_force=current.in_force, scheduled=point)
