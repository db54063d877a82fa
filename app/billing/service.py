"""Read monthly statements, and close a month."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from app.audit import service as audit
from app.audit.events import AuditAction
from app.auth.principal import Caller
from app.billing.month import BillingMonth
from app.billing.repository import StatementRepository
from app.billing.statements import Statement, StatementInputs
from app.billing.subscription_repository import SubscriptionRepository
from app.core.admission import AdmissionQueue
from app.core.errors import MonthNotOver, NotFound
from app.core.event_loop import in_slices
from app.core.money import to_usd
from app.database.ledger_lock import LedgerLock
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.usage_mode.repository import UsageModeRepository


class StatementService:
    """Use cases of statements. An open statement is computed on each request; a closed one never changes."""

    def __init__(self, units: UnitsOfWork, admission: AdmissionQueue) -> None:
        self._units = units
        self._admission = admission

    async def page(self, organization_id: str, *, at_most: int, before: int) -> Sequence[Statement]:
        """One page of statements, newest first, from the current month back to the first known one.

        Args:
            organization_id: the organization.
            at_most: the size of the page.
            before: the number of a month (`BillingMonth.number`); the page starts before it.
        """
        async with self._admission.slot(organization_id):
            async with self._units.reading_snapshot(organization_id) as uow:
                current_month = BillingMonth.of(await uow[UsageModeRepository].clock())
                last = min(before - 1, current_month.number)
                first = max((await _first_month(uow, current_month)).number, last - at_most + 1)
                months = [BillingMonth.from_number(number) for number in range(last, first - 1, -1)]
                found = await _find(uow, months)
            return await found.statements()

    async def read(self, organization_id: str, month: BillingMonth) -> tuple[Statement, datetime]:
        """The statement of a month from one snapshot, and the time up to which it includes all accepted events.

        That is when the statement was closed: later events are adjustments of another month. If it is open, it is now.

        Raises:
            NotFound: the month has not begun.
            DatabaseUnavailable
        """
        async with self._admission.slot(organization_id):
            async with self._units.reading_snapshot(organization_id) as uow:
                begun_at = await uow[StatementRepository].begun_at()
                if month > BillingMonth.of(begun_at):
                    raise NotFound
                found = await _find(uow, [month])
            (statement,) = await found.statements()
            return statement, statement.closed_at or begun_at

    async def close(self, caller: Caller, month: BillingMonth) -> Statement:
        """Close a month that is over. Closing it again returns the same statement.

        The exclusive ledger lock keeps ingestion out: an event is either in the closed statement, or it is late and
        becomes an adjustment.

        Raises:
            MonthNotOver, DatabaseUnavailable
        """
        async with self._units.writing(caller.organization_id) as uow:
            await uow[LedgerLock].lock_exclusively()
            now = await uow[UsageModeRepository].clock()
            if month.ends_at > now:
                raise MonthNotOver
            statement = await _statement(uow, month)
            if statement.closed_at is not None:
                return statement
            await uow[StatementRepository].insert_closed(statement, closed_at=now, closed_by=caller.subject)
            await audit.record(
                uow,
                caller,
                AuditAction.STATEMENT_CLOSED,
                None,
                month=str(month),
                total=to_usd(statement.total),
            )
            closed = await _statement(uow, month)
            await uow.commit()
        return closed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What statements are made of, from one snapshot. To make them takes no connection."""

    months: Sequence[BillingMonth]
    closed: Mapping[BillingMonth, Statement]
    inputs: StatementInputs | None  # None: all months are closed

    async def statements(self, *, in_transaction: bool = False) -> Sequence[Statement]:
        return [await self._statement_of(month, in_transaction=in_transaction) for month in self.months]

    async def _statement_of(self, month: BillingMonth, *, in_transaction: bool) -> Statement:
        if self.inputs is None or month in self.closed:
            return self.closed[month]
        return await in_slices(self.inputs.statement_of(month), in_transaction=in_transaction)


async def _find(uow: UnitOfWork, months: Sequence[BillingMonth]) -> _Found:
    if not months:
        return _Found(months=(), closed={}, inputs=None)
    repository = uow[StatementRepository]
    closed = await repository.closed()
    still_open = [month for month in months if month not in closed]
    return _Found(
        months=months,
        closed=await repository.find_closed(closed, months),
        inputs=await repository.inputs(still_open, closed) if still_open else None,
    )


async def _statement(uow: UnitOfWork, month: BillingMonth) -> Statement:
    """The statement of a month, made within the transaction that may close it."""
    (statement,) = await (await _find(uow, [month])).statements(in_transaction=True)
    return statement


async def _first_month(uow: UnitOfWork, current_month: BillingMonth) -> BillingMonth:
    first = await uow[StatementRepository].first_month()
    subscription = await uow[SubscriptionRepository].find()
    subscribed = current_month if subscription is None else BillingMonth.of(subscription.created_at)
    return min(subscribed, first or current_month)
