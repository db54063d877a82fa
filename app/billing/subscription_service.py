"""What internal services say of an organization: its subscription, and how many endpoints it has."""

from datetime import date

from app.audit import service as audit
from app.audit.events import AuditAction
from app.auth.principal import Caller
from app.billing.month import BillingMonth
from app.billing.repository import StatementRepository
from app.billing.statements import Subscription, SubscriptionRecord
from app.billing.subscription_repository import SubscriptionRepository
from app.core.errors import InvalidInput, PreconditionFailed, StatementClosed
from app.database.ledger_lock import LedgerLock
from app.database.unit_of_work import UnitsOfWork
from app.usage_mode.repository import UsageModeRepository


class SubscriptionService:
    """Both count for open months alone: under the lock that closing takes too, a month is open or closed."""

    def __init__(self, units: UnitsOfWork) -> None:
        self._units = units

    async def change(
        self, caller: Caller, wanted: Subscription, *, revisions: frozenset[int] | None = None
    ) -> SubscriptionRecord:
        """Counts for every open month, without proration. The same once more changes nothing.

        Raises:
            PreconditionFailed, DatabaseUnavailable
        """
        async with self._units.writing(caller.organization_id) as uow:
            await uow[LedgerLock].exclusive()
            held = await uow[SubscriptionRepository].find()
            if revisions is not None and (0 if held is None else held.revision) not in revisions:
                raise PreconditionFailed
            if held is not None and held.subscription == wanted:
                return held
            now = await uow[UsageModeRepository].clock()
            record = SubscriptionRecord(
                subscription=wanted,
                revision=1 if held is None else held.revision + 1,
                created_at=now if held is None else held.created_at,
            )
            await uow[SubscriptionRepository].save(record, updated_at=now, updated_by=caller.subject)
            await audit.record(uow, caller, AuditAction.SUBSCRIPTION_CHANGED, None, revision=record.revision)
            await uow.commit()
        return record

    async def count_endpoints(self, caller: Caller, day: date, endpoints: int) -> None:
        """Replaces what was said of that day before.

        Raises:
            InvalidInput: its month has not begun.
            StatementClosed, DatabaseUnavailable
        """
        month = BillingMonth.of_day(day)
        async with self._units.writing(caller.organization_id) as uow:
            await uow[LedgerLock].exclusive()
            now = await uow[UsageModeRepository].clock()
            if month > BillingMonth.of(now):
                raise InvalidInput.of(
                    "date", "date_in_future", "Endpoints are counted in months that have begun."
                )
            if month in await uow[StatementRepository].closed():
                raise StatementClosed
            await uow[SubscriptionRepository].count(day, endpoints, updated_at=now, updated_by=caller.subject)
            await audit.record(
                uow,
                caller,
                AuditAction.ENDPOINTS_COUNTED,
                None,
                day=day.isoformat(),
                endpoints=endpoints,
            )
            await uow.commit()
