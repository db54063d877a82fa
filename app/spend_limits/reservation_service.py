"""Reserve spend before a request is made, so that concurrent requests cannot overspend a limit."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from app.auth.principal import Caller
from app.core.clock import now
from app.core.errors import NotFound, ReservationEnded, SpendLimitExceeded
from app.core.event_loop import list_in_slices
from app.database.group_commit import GroupCommit
from app.database.ledger_lock import LedgerLock
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.spend_limits.counters import increments_for
from app.spend_limits.limits import ExpectedUsage, estimate
from app.spend_limits.repository import LimitRepository
from app.spend_limits.reservation_repository import NewReservation, Refusal, ReservationRepository
from app.spend_limits.reservations import HeldState, Reservation, StoredReservationState
from app.usage.ports import PriceSource
from app.usage_events.priced_event import Pricer

# Bounds how long one transaction holds the counters of an organization.
_LARGEST_GROUP = 128
# To price a reservation takes 0.08 ms: every class of input has its price.
_PRICED_AT_ONCE = 4


class ReservationPrices(PriceSource, Protocol):
    """Loads the prices of one organization, and the database's clock in the same round trip."""

    async def load_with_clock(self, uow: UnitOfWork) -> tuple[Pricer, datetime]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationRequest:
    """The spend to reserve: an amount in pico-USD, or the most that a request may use.

    `model` selects the limits that apply; it is the model of the expected usage.
    """

    amount: int | None
    model: str | None
    endpoint_id: str | None
    feature: str | None
    ttl: timedelta
    expected: ExpectedUsage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedReservation:
    """A reservation to decide about, with the id that it gets."""

    id: UUID
    created_by: str
    request: ReservationRequest

    def priced(self, prices: Pricer | None, at: datetime) -> NewReservation:
        return NewReservation(
            id=self.id,
            amount=self._amount(prices, at, is_compatible_endpoint=False),
            compatible_amount=self._amount(prices, at, is_compatible_endpoint=True),
            model=self.request.model,
            endpoint_id=self.request.endpoint_id,
            feature=self.request.feature,
            created_by=self.created_by,
            ttl_seconds=int(self.request.ttl.total_seconds()),
        )

    def _amount(self, prices: Pricer | None, at: datetime, *, is_compatible_endpoint: bool) -> int | None:
        expected = self.request.expected
        if expected is None or prices is None:
            return self.request.amount
        return estimate(
            lambda used: prices.price([used], at=at, is_compatible_endpoint=is_compatible_endpoint).cost,
            expected,
        )


class ReservationService:
    """Creates, lists and releases reservations under the shared ledger lock, so that limits cannot change meanwhile.

    Check-then-reserve would be a race. One SQL function checks all limits that apply and reserves in them. Requests of
    one organization that arrive at the same time share a transaction, because its commit is what takes time.

    Args:
        units: opens units of work.
        prices: the prices of the organization, with its overrides.
    """

    def __init__(self, units: UnitsOfWork, prices: ReservationPrices) -> None:
        self._units = units
        self._prices = prices
        self._groups = GroupCommit(self._reserve_group, at_most=_LARGEST_GROUP)

    async def reserve(
        self, caller: Caller, request: ReservationRequest, *, reservation_id: UUID
    ) -> Reservation:
        """Reserve the amount in every limit that applies to the active usage mode, or in none.

        If the price is not known, a blocking limit rejects the reservation. Repeating it with the same id, also while
        the first attempt is still running, returns the reservation that the first attempt makes.

        Raises:
            SpendLimitExceeded, DatabaseUnavailable
        """
        wanted = WantedReservation(id=reservation_id, created_by=caller.subject, request=request)
        return await self._groups.submit(caller.organization_id, wanted)

    async def find(self, organization_id: str, reservation_id: UUID) -> Reservation | None:
        async with self._units.reading(organization_id) as uow:
            return await uow[ReservationRepository].find(reservation_id)

    async def read(self, organization_id: str, reservation_id: UUID) -> Reservation:
        """Raises NotFound or DatabaseUnavailable."""
        found = await self.find(organization_id, reservation_id)
        if found is None:
            raise NotFound
        return found

    async def page(
        self, organization_id: str, *, state: HeldState | None, at_most: int, before: UUID | None
    ) -> Sequence[Reservation]:
        """One page of the reservations that are still charged, newest first."""
        async with self._units.reading(organization_id) as uow:
            return await uow[ReservationRepository].page(state=state, at_most=at_most, before=before)

    async def release(self, caller: Caller, reservation_id: UUID) -> Reservation:
        """Release a reservation whose request was not made, also after it expired. Releasing it again changes nothing.

        Raises:
            NotFound
            ReservationEnded: its event is in the ledger.
            DatabaseUnavailable
        """
        async with self._units.writing(caller.organization_id) as uow:
            released_at = await uow[LedgerLock].lock_shared()
            reservation = await uow[ReservationRepository].lock(reservation_id)
            if reservation is None:
                raise NotFound
            if reservation.state is StoredReservationState.RELEASED:
                return reservation
            if reservation.state is not StoredReservationState.OPEN:
                raise ReservationEnded
            released = await uow[ReservationRepository].release(reservation, now=released_at)
            limits = await uow[LimitRepository].all()
            await uow[LimitRepository].add(increments_for(limits, [], [reservation]))
            await uow.commit()
        return released

    async def reserve_within(
        self, uow: UnitOfWork, wanted: Sequence[WantedReservation], *, has_price_overrides: bool
    ) -> Sequence[Reservation | SpendLimitExceeded]:
        """Decide about these reservations in a transaction that holds the ledger lock shared. Commit it soon.

        Other transactions of the organization wait for the counters.

        Args:
            uow: the transaction.
            wanted: the reservations.
            has_price_overrides: read under the lock. Without overrides, prices take no round trip.
        """
        prices = await self._prices.load(uow) if has_price_overrides else self._prices.without_overrides()
        made = await uow[ReservationRepository].reserve(
            await _in_slices(one.priced(prices, now()) for one in wanted)
        )
        return [_exceeded(one) if isinstance(one, Refusal) else one for one in made]

    async def _reserve_group(
        self, organization_id: str, wanted: Sequence[WantedReservation]
    ) -> Sequence[Reservation | Exception]:
        """Decide about these requests in one transaction. Without token counts no prices are needed: one round trip."""
        if any(one.request.expected is not None for one in wanted):
            return await self._reserve_priced(organization_id, wanted)
        uow = self._units.autocommit_call(organization_id)
        made = await uow[ReservationRepository].reserve([one.priced(None, now()) for one in wanted])
        return [_exceeded(one) if isinstance(one, Refusal) else one for one in made]

    async def _reserve_priced(
        self, organization_id: str, wanted: Sequence[WantedReservation]
    ) -> Sequence[Reservation | Exception]:
        async with self._units.writing_with_shared_lock(organization_id) as uow:
            prices, at = await self._prices.load_with_clock(uow)
            made = await uow[ReservationRepository].reserve(
                await _in_slices(one.priced(prices, at) for one in wanted), at=at
            )
            await uow.commit()
        return [_exceeded(one) if isinstance(one, Refusal) else one for one in made]


def _exceeded(refusal: Refusal) -> SpendLimitExceeded:
    return SpendLimitExceeded(
        limit_id=refusal.limit_id,
        limit_name=refusal.limit_name,
        reason="price_unknown" if refusal.is_price_unknown else "limit_reached",
    )


async def _in_slices(priced: Iterable[NewReservation]) -> Sequence[NewReservation]:
    """Price reservations before their transaction has locked a counter."""
    return await list_in_slices(priced, in_transaction=True, items_per_step=_PRICED_AT_ONCE)
