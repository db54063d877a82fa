"""Create, read, update and delete spend limits, and count what ingestion adds to the ledger."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from uuid import UUID

from app.audit import service as audit
from app.audit.events import AuditAction
from app.auth.principal import Caller
from app.core.errors import NotFound, TooManyLimits
from app.core.event_loop import TimeSlice
from app.core.money import to_usd
from app.core.revisions import require_revision
from app.database.ledger_lock import LedgerLock
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.rate_limits.service import RateLimiter, RateLimitKind
from app.spend_limits import threshold_notifications
from app.spend_limits.counters import CountedCharges, unpriced_by_reservation
from app.spend_limits.limits import (
    CounterIncrement,
    LimitState,
    LimitTerms,
    SpendLimit,
    counts_from,
    crossed_thresholds,
)
from app.spend_limits.repository import LimitRepository
from app.spend_limits.reservation_repository import ReservationRepository, SettledReservations
from app.usage_events.records import Charge

# They take about 5 ms if each has another spender.
_ROWS_AT_A_TIME = 500


class SpendLimitService:
    """Use cases of spend limits.

    Limits change while the transaction holds the organization's ledger lock exclusively. Counters change under the
    shared lock.
    """

    def __init__(self, units: UnitsOfWork, rate_limits: RateLimiter, *, max_limits: int = 100) -> None:
        self._units = units
        self._max_limits = max_limits
        self._rate_limits = rate_limits

    async def create(self, caller: Caller, terms: LimitTerms, *, limit_id: UUID) -> LimitState:
        """Create a limit. It counts the spend that the ledger has already. Repeating it with the same id changes nothing.

        Raises:
            RateLimited, TooManyLimits, DatabaseUnavailable
        """
        await self._admit(caller)
        async with self._units.writing(caller.organization_id) as uow:
            await uow[LedgerLock].lock_exclusively()
            existing = await uow[LimitRepository].all()
            if all(limit.id != limit_id for limit in existing):
                if len(existing) >= self._max_limits:
                    raise TooManyLimits
                now = await uow[LimitRepository].clock()
                limit = SpendLimit(
                    id=limit_id,
                    terms=terms,
                    counts_from=counts_from(terms.period, now),
                    revision=1,
                    created_at=now,
                    created_by=caller.subject,
                    updated_at=now,
                )
                await uow[LimitRepository].insert(limit)
                await uow[LimitRepository].recount(limit)
                await _record(uow, caller, AuditAction.SPEND_LIMIT_CREATED, limit)
                await _notify_crossed_thresholds(uow, limit)
            state = await _state(uow, limit_id)
            await uow.commit()
        return state

    async def read(self, organization_id: str, limit_id: UUID) -> LimitState:
        """Raises NotFound or DatabaseUnavailable."""
        async with self._units.reading(organization_id) as uow:
            return await _state(uow, limit_id)

    async def page(self, organization_id: str, *, at_most: int, before: UUID | None) -> Sequence[LimitState]:
        """One page of limits, newest first."""
        async with self._units.reading_in_bulk(organization_id) as uow:
            return await uow[LimitRepository].states(at_most=at_most, before=before)

    async def update(
        self,
        caller: Caller,
        limit_id: UUID,
        change: Callable[[LimitTerms], LimitTerms],
        *,
        revisions: Collection[int] | None = None,
    ) -> LimitState:
        """Change the terms of a limit. If its period or scope changes, count its spend again from the ledger.

        If its period, scope or amount changes, each threshold may be reported again, against the new terms.

        Raises:
            RateLimited, NotFound, PreconditionFailed, DatabaseUnavailable
        """
        await self._admit(caller)
        async with self._units.writing(caller.organization_id) as uow:
            await uow[LedgerLock].lock_exclusively()
            found = await _find(uow, limit_id, revisions)
            terms = change(found.terms)
            if terms != found.terms:
                now = await uow[LimitRepository].clock()
                limit = replace(found, terms=terms, revision=found.revision + 1, updated_at=now)
                if not terms.counts_the_same(found.terms):
                    limit = replace(limit, counts_from=counts_from(terms.period, now))
                    await uow[LimitRepository].recount(limit)
                if not terms.has_same_thresholds(found.terms):
                    await uow[LimitRepository].delete_crossings(limit_id)
                await uow[LimitRepository].update(limit)
                await _record(uow, caller, AuditAction.SPEND_LIMIT_CHANGED, limit)
                await _notify_crossed_thresholds(uow, limit)
            state = await _state(uow, limit_id)
            await uow.commit()
        return state

    async def delete(
        self, caller: Caller, limit_id: UUID, *, revisions: Collection[int] | None = None
    ) -> SpendLimit:
        """Delete a limit and its counters. Reservations stay, because they count against other limits too.

        Raises:
            RateLimited, NotFound, PreconditionFailed, DatabaseUnavailable
        """
        await self._admit(caller)
        async with self._units.writing(caller.organization_id) as uow:
            await uow[LedgerLock].lock_exclusively()
            limit = await _find(uow, limit_id, revisions)
            await uow[LimitRepository].delete(limit_id)
            await _record(uow, caller, AuditAction.SPEND_LIMIT_DELETED, limit)
            await uow.commit()
        return limit

    async def _admit(self, caller: Caller) -> None:
        """Rate-limited, because each write may aggregate the whole ledger and notify all webhook endpoints again."""
        await self._rate_limits.admit(caller.organization_id, RateLimitKind.SPEND_LIMIT_WRITES)

    async def settle(self, uow: UnitOfWork, rows: Sequence[Charge]) -> None:
        """Count rows that are new in the ledger, including corrections, and settle the reservations that they name.

        Call it once in a transaction, at its end, under the shared ledger lock. A reservation that does not exist or
        was released is ignored: an event is never rejected because of its reservation. A row without a price does not
        settle its reservation: the estimate stays charged until a correction adds the price.
        """
        changed = await uow[ReservationRepository].settle(unpriced_by_reservation(rows))
        if not changed.limits:
            return
        by_id = {limit.id: limit for limit in changed.limits}
        increments = await _increments(rows, changed)
        reached = await uow[LimitRepository].add(increments)
        added = {
            (increment.limit_id, increment.period_starts_at): increment.spend.settled
            for increment in increments
        }
        for counted in sorted(reached, key=lambda one: (one.limit_id, one.period_starts_at)):
            after = counted.spend.settled
            before = after - added[counted.limit_id, counted.period_starts_at]
            limit = by_id[counted.limit_id]
            thresholds = crossed_thresholds(limit.terms, before=before, after=after)
            await threshold_notifications.notify(
                uow, limit, counted.period_starts_at, thresholds, spent=after
            )


async def _increments(rows: Sequence[Charge], changed: SettledReservations) -> Sequence[CounterIncrement]:
    charges, time_slice = CountedCharges(changed.limits), TimeSlice(in_transaction=True)
    for start in range(0, len(rows), _ROWS_AT_A_TIME):
        charges.add_rows(rows[start : start + _ROWS_AT_A_TIME])
        await time_slice.pause_if_used()
    charges.add_reservations(changed.ended, sign=-1)
    charges.add_reservations(changed.charged_again, sign=1)
    return charges.increments()


async def _notify_crossed_thresholds(uow: UnitOfWork, limit: SpendLimit) -> None:
    """Notify at once if the spend has crossed thresholds of a limit that was created or changed just now."""
    state = await _state(uow, limit.id)
    spent = state.spend.settled
    thresholds = crossed_thresholds(limit.terms, before=0, after=spent)
    await threshold_notifications.notify(uow, limit, state.period_starts_at, thresholds, spent=spent)


async def _state(uow: UnitOfWork, limit_id: UUID) -> LimitState:
    found = await uow[LimitRepository].states(limit_id=limit_id, at_most=1)
    if not found:
        raise NotFound
    return found[0]


async def _find(uow: UnitOfWork, limit_id: UUID, revisions: Collection[int] | None) -> SpendLimit:
    found = next((limit for limit in await uow[LimitRepository].all() if limit.id == limit_id), None)
    if found is None:
        raise NotFound
    require_revision(found.revision, revisions)
    return found


async def _record(uow: UnitOfWork, caller: Caller, action: AuditAction, limit: SpendLimit) -> None:
    terms = limit.terms
    await audit.record(
        uow,
        caller,
        action,
        None,
        spend_limit_id=str(limit.id),
        amount=to_usd(terms.amount),
        period=terms.period,
        usage_mode=terms.scope.mode,
        enforcement=terms.enforcement,
        revision=limit.revision,
    )
