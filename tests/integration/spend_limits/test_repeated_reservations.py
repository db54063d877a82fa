"""A repeated request for a reservation may meet its own first attempt: there is one reservation, and it counts once."""

import asyncio
import os
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.auth.principal import Caller
from app.core.clock import new_id
from app.core.money import PICO_PER_USD
from app.database.engine import Database
from app.database.ledger_lock import LedgerLock
from app.database.unit_of_work import UnitsOfWork
from app.spend_limits.limits import Enforcement, LimitPeriod, LimitScope, LimitTerms
from app.spend_limits.reservation_repository import NewReservation, ReservationRepository
from app.spend_limits.reservation_service import ReservationRequest, ReservationService
from app.spend_limits.reservations import Reservation
from tests.support.database.lock_waiters import lock_waiters
from tests.support.database.rows import fetch
from tests.support.database.spending_ledger import limit_service
from tests.support.polling import until
from tests.support.tenant import Tenant
from tests.support.usage.unpriced_ingestion import NoPrices

AMOUNT = PICO_PER_USD
REQUEST = ReservationRequest(
    amount=AMOUNT, model=None, endpoint_id=None, feature=None, ttl=timedelta(minutes=10)
)


class Reserving:
    """Reserves in one organization, through one service and through other instances."""

    def __init__(self, database: Database, organization: str) -> None:
        self.units = UnitsOfWork(database)
        self.organization = organization
        self.caller = Caller(subject="service", organization_id=organization, request_id="")
        self.service = ReservationService(self.units, NoPrices())

    async def create_limit(self, amount: int = 10 * PICO_PER_USD) -> UUID:
        terms = LimitTerms(
            name="Total",
            amount=amount,
            period=LimitPeriod.TOTAL,
            scope=LimitScope(),
            enforcement=Enforcement.BLOCK,
            thresholds=(),
        )
        state = await limit_service(self.units).create(self.caller, terms, limit_id=new_id())
        return state.limit.id

    async def reserved(self) -> list[int]:
        found = await limit_service(self.units).page(self.organization, at_most=10, before=None)
        return [state.spend.reserved for state in found]

    def reserve(self, id_: UUID) -> asyncio.Task[Reservation]:
        return asyncio.create_task(self.service.reserve(self.caller, REQUEST, reservation_id=id_))


@pytest.fixture
def reserving(database: Database, tenant: Tenant) -> Reserving:
    return Reserving(database, tenant.organization)


def first_attempt(id_: UUID) -> NewReservation:
    return NewReservation(
        id=id_,
        amount=AMOUNT,
        compatible_amount=AMOUNT,
        model=None,
        endpoint_id=None,
        feature=None,
        created_by="service",
        ttl_seconds=600,
    )


class TestRepeatedAttempt:
    @pytest.mark.parametrize("limits", [0, 1])
    @pytest.mark.parametrize("others", [0, 3])
    async def test_waits_for_a_running_first_attempt_and_returns_its_reservation(
        self, superuser: AsyncEngine, reserving: Reserving, limits: int, others: int
    ) -> None:
        """As when another instance still runs the first attempt, and other requests share the group."""
        for _ in range(limits):
            await reserving.create_limit()
        id_ = new_id()
        async with reserving.units.writing(reserving.organization) as uow:
            (made,) = await uow[ReservationRepository].reserve([first_attempt(id_)])
            tasks = [reserving.reserve(new_id()) for _ in range(others)]
            repeated = reserving.reserve(id_)
            await until(lambda: lock_waiters(superuser), bool)
            await uow.commit()
        await asyncio.gather(*tasks)

        assert isinstance(made, Reservation)
        assert await repeated == made
        assert await reserving.reserved() == [AMOUNT * (1 + others)] * limits

    async def test_is_refused_if_the_limit_refused_the_first_attempt(self, reserving: Reserving) -> None:
        limit_id = await reserving.create_limit(amount=1)
        id_ = new_id()

        results = await asyncio.gather(*(reserving.reserve(id_) for _ in range(3)), return_exceptions=True)

        assert [getattr(it, "limit_id", None) for it in results] == [limit_id] * 3

    async def test_shares_the_reservation_of_a_first_attempt_in_the_same_group(
        self, superuser: AsyncEngine, reserving: Reserving
    ) -> None:
        await reserving.create_limit()
        id_ = new_id()
        async with reserving.units.writing(reserving.organization) as uow:
            await uow[LedgerLock].lock_exclusively()
            running = reserving.reserve(new_id())
            await until(lambda: lock_waiters(superuser), bool)
            attempts = [reserving.reserve(id_) for _ in range(4)]
        await running

        made = await asyncio.gather(*attempts)
        assert made == made[:1] * 4
        assert await reserving.reserved() == [2 * AMOUNT]


@pytest.mark.skipif(
    "BYOK_TEST_CELLS" in os.environ, reason="in other cells a call is not repeated on a second connection"
)
class TestBrokenConnection:
    async def test_is_replaced_and_the_reservation_counts_once(
        self, superuser: AsyncEngine, reserving: Reserving
    ) -> None:
        await reserving.create_limit()
        async with reserving.units.writing(reserving.organization) as uow:
            await uow[LedgerLock].lock_exclusively()
            waiting = reserving.reserve(new_id())
            await until(lambda: lock_waiters(superuser), bool)
            await fetch(
                superuser,
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE NOT granted AND pid IS NOT NULL",
            )

        made = await waiting
        assert await reserving.service.find(reserving.organization, made.id) == made
        assert await reserving.reserved() == [AMOUNT]
