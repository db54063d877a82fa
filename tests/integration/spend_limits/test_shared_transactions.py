"""Reservations of several organizations that arrive at the same time share transactions, but no rows and no locks."""

import asyncio
import os
from collections.abc import Sequence
from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.auth.principal import Caller
from app.core.clock import new_id
from app.core.errors import SpendLimitExceeded
from app.database.engine import Database
from app.database.ledger_lock import LedgerLock
from app.database.unit_of_work import UnitsOfWork
from app.spend_limits.limits import Enforcement, LimitPeriod, LimitScope, LimitTerms
from app.spend_limits.reservation_service import ReservationRequest, ReservationService
from app.spend_limits.reservations import Reservation
from tests.support.database.lock_waiters import lock_waiters
from tests.support.database.own_database import DatabaseRoles
from tests.support.database.rows import fetch
from tests.support.database.spending_ledger import limit_service
from tests.support.polling import until
from tests.support.usage.unpriced_ingestion import NoPrices

REQUEST = ReservationRequest(amount=1, model=None, endpoint_id=None, feature=None, ttl=timedelta(minutes=10))
ORGANIZATIONS = 30


async def new_organizations(database: Database, number: int, *, amount: int) -> list[str]:
    """Organizations that each have a limit of this amount."""
    organizations = [f"org_{new_id().hex}" for _ in range(number)]
    for organization in organizations:
        terms = LimitTerms(
            name="Total",
            amount=amount,
            period=LimitPeriod.TOTAL,
            scope=LimitScope(),
            enforcement=Enforcement.BLOCK,
            thresholds=(),
        )
        await limit_service(UnitsOfWork(database)).create(caller_of(organization), terms, limit_id=new_id())
    return organizations


def caller_of(organization: str, subject: str = "service") -> Caller:
    return Caller(subject=subject, organization_id=organization, request_id="")


def reserve(service: ReservationService, caller: Caller) -> asyncio.Task[Reservation]:
    return asyncio.create_task(service.reserve(caller, REQUEST, reservation_id=new_id()))


def service_on(database: Database) -> ReservationService:
    return ReservationService(UnitsOfWork(database), NoPrices())


async def reserved(database: Database, organizations: Sequence[str]) -> list[int]:
    """What the only limit of each organization has reserved."""
    limits = limit_service(UnitsOfWork(database))
    pages = [await limits.page(organization, at_most=2, before=None) for organization in organizations]
    return [state.spend.reserved for (state,) in pages]


async def rows_by_organization(superuser: AsyncEngine, organizations: Sequence[str]) -> dict[str, set[str]]:
    """The transactions that wrote the reservations of each organization."""
    found = await fetch(
        superuser,
        "SELECT organization_id, CAST(xmin AS text) AS written_by FROM spend_reservation"
        " WHERE organization_id = ANY (:organizations)",
        organizations=list(organizations),
    )
    by_organization: dict[str, set[str]] = {}
    for row in found:
        by_organization.setdefault(row["organization_id"], set()).add(row["written_by"])
    return by_organization


class TestSharedTransaction:
    @pytest.mark.skipif(
        "BYOK_TEST_CELLS" in os.environ, reason="in cells each organization has its transaction"
    )
    async def test_reserves_for_several_organizations_and_counts_for_each_its_own(
        self, database: Database, superuser: AsyncEngine
    ) -> None:
        organizations = await new_organizations(database, ORGANIZATIONS, amount=10)
        service = service_on(database)

        made = await asyncio.gather(*(reserve(service, caller_of(it)) for it in organizations))

        for organization, reservation in zip(organizations, made, strict=True):
            assert await service.read(organization, reservation.id) == reservation
        assert await reserved(database, organizations) == [1] * ORGANIZATIONS
        written_by = await rows_by_organization(superuser, organizations)
        assert len(written_by) == ORGANIZATIONS
        assert len(set.union(*written_by.values())) < ORGANIZATIONS / 2

    async def test_refuses_only_the_organization_whose_limit_is_reached(self, database: Database) -> None:
        organizations = await new_organizations(database, 5, amount=10)
        full = await new_organizations(database, 5, amount=0)
        service = service_on(database)

        results = await asyncio.gather(
            *(reserve(service, caller_of(it)) for it in [*organizations, *full]), return_exceptions=True
        )

        assert [type(it) for it in results] == [Reservation] * 5 + [SpendLimitExceeded] * 5
        assert await reserved(database, [*organizations, *full]) == [1] * 5 + [0] * 5


class TestFailure:
    async def test_of_one_organization_does_not_affect_the_others(self, database: Database) -> None:
        organizations = await new_organizations(database, 6, amount=10)
        service = service_on(database)
        callers = [caller_of(it) for it in organizations]
        callers[3] = caller_of(organizations[3], "PostgreSQL stores no \0")

        results = await asyncio.gather(*(reserve(service, it) for it in callers), return_exceptions=True)

        assert [isinstance(it, Reservation) for it in results] == [True] * 3 + [False] + [True] * 2
        assert await reserved(database, organizations) == [1, 1, 1, 0, 1, 1]

    @pytest.mark.parametrize("place", [0, 4], ids=["alone", "in a group"])
    async def test_that_waits_for_a_lock_does_not_delay_the_others(
        self, database: Database, superuser: AsyncEngine, place: int
    ) -> None:
        """As when a limit of one organization is created meanwhile."""
        organizations = await new_organizations(database, 8, amount=10)
        service = service_on(database)
        async with UnitsOfWork(database).writing(organizations[place]) as uow:
            await uow[LedgerLock].lock_exclusively()
            tasks = [reserve(service, caller_of(it)) for it in organizations]
            waiting = tasks.pop(place)
            others = [it for it in organizations if it != organizations[place]]
            # Far below the time after which a wait for a lock ends otherwise.
            async with asyncio.timeout(2):
                await asyncio.gather(*tasks)
                await asyncio.gather(*(reserve(service, caller_of(it)) for it in others))
            await until(lambda: lock_waiters(superuser), bool)
            assert not waiting.done()
        await waiting

        assert await reserved(database, [organizations[place], *others]) == [1] + [2] * 7


class TestSeveralInstances:
    async def test_do_not_deadlock_and_grant_each_limit_exactly(
        self, database: Database, database_roles: DatabaseRoles
    ) -> None:
        organizations = await new_organizations(database, 10, amount=25)
        other = Database(database_roles.login)
        services = [service_on(database), service_on(other)]

        async def client(number: int) -> int:
            """Reserve 8 times in each organization, in the opposite order to the other instance; count what is granted."""
            order = organizations if number % 2 else organizations[::-1]
            granted = 0
            for _ in range(8):
                for it in order:
                    try:
                        await reserve(services[number % 2], caller_of(it))
                        granted += 1
                    except SpendLimitExceeded:
                        pass
            return granted

        granted = await asyncio.gather(*(client(number) for number in range(8)))
        await other.close()

        assert sum(granted) == 25 * len(organizations)
        assert await reserved(database, organizations) == [25] * len(organizations)
