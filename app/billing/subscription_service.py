"""Read and set the subscription of an organization and its endpoint counts. Only internal services set them."""

from collections.abc import Sequence
from datetime import date

from app.audit import service as audit
from app.audit.events import AuditAction
from app.auth.principal import Caller
from app.billing.month import BillingMonth
from app.billing.repository import StatementRepository
from app.billing.statements import DayCount, Subscription, SubscriptionRecord
from app.billing.subscription_repository import SubscriptionRepository
from app.core.errors import InvalidInput, NotFound, StatementClosed
from app.core.revisions import require_revision
from app.database.ledger_lock import LedgerLock
from app.database.unit_of_work import UnitsOfWork
from app.usage_mode.repository import UsageModeRepository


class SubscriptionService:
    """Changes what open months are billed.

    Takes the same lock as `StatementService.close`, so that a month cannot close halfway through.
    """

    def __init__(self, units: UnitsOfWork) -> None:
        self._units = units

    async def read(self, organization_id: str) -> SubscriptionRecord:
        """Get the subscription.

        Raises:
            NotFound: the organization has none.
            DatabaseUnavailable
        """
        found = await self._units.autocommit_read(organization_id)[SubscriptionRepository].find()
        if found is None:
            raise NotFound
        return found

    async def endpoint_count(self, organization_id: str, day: date) -> DayCount:
        """Get the endpoint count of a day.

        Raises:
            NotFound: the day has none.
            DatabaseUnavailable
        """
        found = await self._units.autocommit_read(organization_id)[
            SubscriptionRepository
        ].find_endpoint_count(day)
        if found is None:
            raise NotFound
        return found

    async def endpoint_counts(self, organization_id: str, *, at_most: int, before: int) -> Sequence[DayCount]:
        """Return the counts of days before the day with the ordinal number `before`, latest first."""
        last = date.max if before > date.max.toordinal() else date.fromordinal(before)
        async with self._units.reading_in_bulk(organization_id) as uow:
            return await uow[SubscriptionRepository].endpoint_counts(at_most=at_most, before=last)

    async def change(
        self, caller: Caller, requested: Subscription, *, revisions: frozenset[int] | None = None
    ) -> SubscriptionRecord:
        """Set the subscription for all open months, without proration. Repeating it changes nothing.

        Raises:
            PreconditionFailed, DatabaseUnavailable
        """
        async with self._units.writing(caller.organization_id) as uow:
            await uow[LedgerLock].lock_exclusively()
            current = await uow[SubscriptionRepository].find()
            require_revision(None if current is None else current.revision, revisions)
            if current is not None and current.subscription == requested:
                return current
            now = await uow[UsageModeRepository].clock()
            record = SubscriptionRecord(
                subscription=requested,
                revision=1 if current is None else current.revision + 1,
                created_at=now if current is None else current.created_at,
            )
            await uow[SubscriptionRepository].save(record, updated_at=now, updated_by=caller.subject)
            await audit.record(uow, caller, AuditAction.SUBSCRIPTION_CHANGED, None, revision=record.revision)
            await uow.commit()
        return record

    async def set_endpoint_count(
        self, caller: Caller, count: DayCount, *, revisions: frozenset[int] | None = None
    ) -> None:
        """Set the endpoint count of a day. It replaces an earlier count.

        Raises:
            InvalidInput: the month of the day has not begun.
            StatementClosed, PreconditionFailed, DatabaseUnavailable
        """
        month = BillingMonth.of_day(count.day)
        async with self._units.writing(caller.organization_id) as uow:
            await uow[LedgerLock].lock_exclusively()
            now = await uow[UsageModeRepository].clock()
            if month > BillingMonth.of(now):
                raise InvalidInput.of("date", "date_in_future", "Must be in a month that has begun.")
            if month in await uow[StatementRepository].closed():
                raise StatementClosed
            if revisions is not None:
                current = await uow[SubscriptionRepository].find_endpoint_count(count.day)
                require_revision(None if current is None else current.revision, revisions)
            await uow[SubscriptionRepository].set_endpoint_count(
                count, updated_at=now, updated_by=caller.subject
            )
            await audit.record(
                uow,
                caller,
                AuditAction.ENDPOINTS_COUNTED,
                None,
                day=count.day.isoformat(),
                endpoints=count.endpoints,
            )
            await uow.commit()
