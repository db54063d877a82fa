"""Statements: read them open or closed, and close a month for good."""

from collections.abc import Sequence

from app.audit import service as audit
from app.audit.events import AuditAction
from app.auth.principal import Caller
from app.billing.month import BillingMonth
from app.billing.repository import StatementRepository
from app.billing.statements import Statement
from app.billing.subscription_repository import SubscriptionRepository
from app.core.errors import MonthNotOver, NotFound
from app.core.money import to_usd
from app.database.ledger_lock import LedgerLock
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.usage_mode.repository import UsageModeRepository


class StatementService:
    """An open statement is worked out whenever it is asked for; a closed one never changes."""

    def __init__(self, units: UnitsOfWork) -> None:
        self._units = units

    async def page(self, organization_id: str, *, at_most: int, before: int) -> Sequence[Statement]:
        """Newest first, from the present month back to the first of which anything is known.

        Args:
            organization_id: whose.
            at_most: how many.
            before: the number of a month; only those before it.
        """
        async with self._units.reading(organization_id) as uow:
            await uow[StatementRepository].take_snapshot()
            present = BillingMonth.of(await uow[UsageModeRepository].clock())
            last = min(before - 1, present.number)
            first = max((await _first_month(uow, present)).number, last - at_most + 1)
            months = [BillingMonth.numbered(number) for number in range(last, first - 1, -1)]
            return await _statements(uow, months)

    async def read(self, organization_id: str, month: BillingMonth) -> Statement:
        """As of one instant.

        Raises:
            NotFound: the month has not begun.
            DatabaseUnavailable
        """
        async with self._units.reading(organization_id) as uow:
            await uow[StatementRepository].take_snapshot()
            if month > BillingMonth.of(await uow[UsageModeRepository].clock()):
                raise NotFound
            (statement,) = await _statements(uow, [month])
            return statement

    async def close(self, caller: Caller, month: BillingMonth) -> Statement:
        """Freeze a month that is over. Closing it again answers the same statement.

        The lock keeps ingestion out: an event is either in the frozen month, or late and adjusted.

        Raises:
            MonthNotOver, DatabaseUnavailable
        """
        async with self._units.writing(caller.organization_id) as uow:
            await uow[LedgerLock].exclusive()
            now = await uow[UsageModeRepository].clock()
            if month.ends_at > now:
                raise MonthNotOver
            (statement,) = await _statements(uow, [month])
            if statement.closed_at is not None:
                return statement
            await uow[StatementRepository].freeze(statement, closed_at=now, closed_by=caller.subject)
            await audit.record(
                uow,
                caller,
                AuditAction.STATEMENT_CLOSED,
                None,
                month=str(month),
                total=to_usd(statement.total),
            )
            (closed,) = await _statements(uow, [month])
            await uow.commit()
        return closed


async def _statements(uow: UnitOfWork, months: Sequence[BillingMonth]) -> Sequence[Statement]:
    if not months:
        return []
    closed = await uow[StatementRepository].closed()
    frozen = await uow[StatementRepository].find_closed(closed, months)
    still_open = [month for month in months if month not in closed]
    if not still_open:
        return [frozen[month] for month in months]
    books = await uow[StatementRepository].books(still_open, closed)
    return [frozen[month] if month in closed else books.statement_of(month) for month in months]


async def _first_month(uow: UnitOfWork, present: BillingMonth) -> BillingMonth:
    known = await uow[StatementRepository].first_month()
    held = await uow[SubscriptionRepository].find()
    subscribed = present if held is None else BillingMonth.of(held.created_at)
    return min(subscribed, known or present)
