"""Spend limits: set, read, change and delete them; count what the ledger takes in."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from uuid import UUID

from app.audit import service as audit
from app.audit.events import AuditAction
from app.auth.principal import Caller
from app.core.errors import NotFound, PreconditionFailed, TooManyLimits
from app.core.money import to_usd
from app.database.ledger_lock import LedgerLock
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.rate_limits.service import RateLimiter, RateLimitKind
from app.spend_limits import threshold_notifications as alerts
from app.spend_limits.counters import increments_for
from app.spend_limits.limits import LimitState, LimitTerms, SpendLimit, counts_from, crossed
from app.spend_limits.repository import LimitRepository
from app.spend_limits.reservation_repository import ReservationRepository
from app.spend_limits.reservations import Reservation, ReservationState
from app.usage.records import Charge

MOST_LIMITS = 100


class SpendLimitService:
    """Limits change under the organization's usage-mode lock, held exclusively; counters move while it is shared."""

    def __init__(self, units: UnitsOfWork, rate_limits: RateLimiter) -> None:
        self._units = units
        self._rate_limits = rate_limits

    async def set(self, caller: Caller, terms: LimitTerms, *, limit_id: UUID) -> LimitState:
        """A new limit, which starts from what the ledger holds. A second time with the same id changes nothing.

        Raises:
            RateLimited, TooManyLimits, DatabaseUnavailable
        """
        await self._admit(caller)
        async with self._units.writing(caller.organization_id) as uow:
            await uow[LedgerLock].exclusive()
            there = await uow[LimitRepository].all()
            if all(limit.id != limit_id for limit in there):
                if len(there) >= MOST_LIMITS:
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
                await uow[LimitRepository].count_anew(limit)
                await _record(uow, caller, AuditAction.SPEND_LIMIT_CREATED, limit)
                await _tell_of_what_is_past(uow, limit)
            state = await _state(uow, limit_id)
            await uow.commit()
        return state

    async def read(self, organization_id: str, limit_id: UUID) -> LimitState:
        """Raises NotFound or DatabaseUnavailable."""
        async with self._units.reading(organization_id) as uow:
            return await _state(uow, limit_id)

    async def page(self, organization_id: str, *, at_most: int, before: UUID | None) -> Sequence[LimitState]:
        """Newest first."""
        async with self._units.reading(organization_id) as uow:
            return await uow[LimitRepository].states(at_most=at_most, before=before)

    async def change(
        self,
        caller: Caller,
        limit_id: UUID,
        change: Callable[[LimitTerms], LimitTerms],
        *,
        revisions: Collection[int] | None = None,
    ) -> LimitState:
        """Other terms. What it counts is counted anew from the ledger where that changes.

        Raises:
            RateLimited, NotFound, PreconditionFailed, DatabaseUnavailable
        """
        await self._admit(caller)
        async with self._units.writing(caller.organization_id) as uow:
            await uow[LedgerLock].exclusive()
            found = await _find(uow, limit_id, revisions)
            terms = change(found.terms)
            if terms != found.terms:
                now = await uow[LimitRepository].clock()
                limit = replace(found, terms=terms, revision=found.revision + 1, updated_at=now)
                if not terms.counts_alike(found.terms):
                    limit = replace(limit, counts_from=counts_from(terms.period, now))
                    await uow[LimitRepository].forget_crossings(limit_id)
                    await uow[LimitRepository].count_anew(limit)
                await uow[LimitRepository].update(limit)
                await _record(uow, caller, AuditAction.SPEND_LIMIT_CHANGED, limit)
                await _tell_of_what_is_past(uow, limit)
            state = await _state(uow, limit_id)
            await uow.commit()
        return state

    async def delete(
        self, caller: Caller, limit_id: UUID, *, revisions: Collection[int] | None = None
    ) -> SpendLimit:
        """The limit and its counters. Reservations stay: other limits may hold them.

        Raises:
            RateLimited, NotFound, PreconditionFailed, DatabaseUnavailable
        """
        await self._admit(caller)
        async with self._units.writing(caller.organization_id) as uow:
            await uow[LedgerLock].exclusive()
            limit = await _find(uow, limit_id, revisions)
            await uow[LimitRepository].delete(limit_id)
            await _record(uow, caller, AuditAction.SPEND_LIMIT_DELETED, limit)
            await uow.commit()
        return limit

    async def _admit(self, caller: Caller) -> None:
        """Limited: each may sum up a whole ledger, and tell every endpoint of every threshold anew."""
        await self._rate_limits.admit(caller.organization_id, RateLimitKind.SPEND_LIMIT_WRITES)

    async def settle(self, uow: UnitOfWork, rows: Sequence[Charge]) -> None:
        """Count rows that are new in the ledger, corrections among them, and end the reservations they name.

        Once in a transaction, at its end, with the organization's usage-mode lock held shared. A reservation
        that is not there, or that ended before, changes nothing: events are never refused for it.
        """
        ended = await _settled(uow, rows)
        limits = await uow[LimitRepository].all()
        if not limits:
            return
        by_id = {limit.id: limit for limit in limits}
        gains = increments_for(limits, rows, ended)
        reached = await uow[LimitRepository].add(gains)
        gained = {(gain.limit_id, gain.period_starts_at): gain.spend.settled for gain in gains}
        for counted in sorted(reached, key=lambda one: (one.limit_id, one.period_starts_at)):
            after = counted.spend.settled
            before = after - gained[counted.limit_id, counted.period_starts_at]
            limit = by_id[counted.limit_id]
            thresholds = crossed(limit.terms, before=before, after=after)
            await alerts.notify(uow, limit, counted.period_starts_at, thresholds, spent=after)


async def _settled(uow: UnitOfWork, rows: Sequence[Charge]) -> Sequence[Reservation]:
    """The reservations that these rows end."""
    named = {row.reservation_id for row in rows if row.reservation_id is not None and row.correction == 0}
    if not named:
        return []
    found = await uow[ReservationRepository].lock(named)
    ended = [reservation for reservation in found if reservation.state is ReservationState.OPEN]
    if ended:
        ids = [reservation.id for reservation in ended]
        await uow[ReservationRepository].end(
            ids, ReservationState.SETTLED, now=await uow[LimitRepository].clock()
        )
    return ended


async def _tell_of_what_is_past(uow: UnitOfWork, limit: SpendLimit) -> None:
    """A limit that is set, or lowered, to less than what is spent has its thresholds behind it at once."""
    state = await _state(uow, limit.id)
    spent = state.spend.settled
    thresholds = crossed(limit.terms, before=0, after=spent)
    await alerts.notify(uow, limit, state.period_starts_at, thresholds, spent=spent)


async def _state(uow: UnitOfWork, limit_id: UUID) -> LimitState:
    found = await uow[LimitRepository].states(limit_id=limit_id, at_most=1)
    if not found:
        raise NotFound
    return found[0]


async def _find(uow: UnitOfWork, limit_id: UUID, revisions: Collection[int] | None) -> SpendLimit:
    found = next((limit for limit in await uow[LimitRepository].all() if limit.id == limit_id), None)
    if found is None:
        raise NotFound
    if revisions is not None and found.revision not in revisions:
        raise PreconditionFailed
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
