"""A reservation waits for changes of the usage mode and of limits, and then uses the new state."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.auth.principal import Caller
from app.core.clock import new_id
from app.core.errors import DatabaseUnavailable, SpendLimitExceeded
from app.database.engine import Database
from app.database.ledger_lock import LedgerLock
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.spend_limits.limits import Enforcement, LimitPeriod, LimitScope, LimitTerms, SpendLimit, counts_from
from app.spend_limits.repository import LimitRepository
from app.spend_limits.reservation_service import ReservationRequest, ReservationService
from app.spend_limits.reservations import Reservation
from app.usage_mode.modes import UsageMode
from app.usage_mode.repository import UsageModeRepository
from tests.support.database.own_database import DatabaseRoles
from tests.support.database.rows import fetch
from tests.support.polling import until
from tests.support.tenant import Tenant
from tests.support.usage.unpriced_ingestion import NoPrices

REQUEST = ReservationRequest(
    amount=1,
    model=None,
    endpoint_id=None,
    feature=None,
    ttl=timedelta(minutes=10),
)


async def reserve(database: Database, organization: str) -> Reservation:
    caller = Caller(subject="service", organization_id=organization, request_id="")
    return await ReservationService(UnitsOfWork(database), NoPrices()).reserve(
        caller, REQUEST, reservation_id=new_id()
    )


async def limit_of_0(uow: UnitOfWork) -> SpendLimit:
    now = await uow[LimitRepository].clock()
    terms = LimitTerms(
        name="Limit of 0",
        amount=0,
        period=LimitPeriod.MONTH,
        scope=LimitScope(),
        enforcement=Enforcement.BLOCK,
        thresholds=(),
    )
    return SpendLimit(
        id=new_id(),
        terms=terms,
        counts_from=counts_from(terms.period, now),
        revision=1,
        created_at=now,
        created_by="admin",
        updated_at=now,
    )


async def lock_waiters(superuser: AsyncEngine) -> set[int]:
    """The processes that wait for the ledger lock."""
    found = await fetch(superuser, "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    return {row["pid"] for row in found}


class TestReserve:
    async def test_uses_the_mode_of_a_switch_that_it_waited_for(
        self, database: Database, superuser: AsyncEngine, tenant: Tenant
    ) -> None:
        async with UnitsOfWork(database).writing(tenant.organization) as uow:
            await uow[LedgerLock].lock_exclusively()
            await uow[UsageModeRepository].append(UsageMode.BYO, None, changed_by="admin")
            reserving = asyncio.create_task(reserve(database, tenant.organization))
            await until(lambda: lock_waiters(superuser), bool)
            await uow.commit()

        assert (await reserving).spender.mode is UsageMode.BYO

    async def test_respects_a_limit_that_it_waited_for(
        self, database: Database, superuser: AsyncEngine, tenant: Tenant
    ) -> None:
        async with UnitsOfWork(database).writing(tenant.organization) as uow:
            await uow[LedgerLock].lock_exclusively()
            await uow[LimitRepository].insert(await limit_of_0(uow))
            reserving = asyncio.create_task(reserve(database, tenant.organization))
            await until(lambda: lock_waiters(superuser), bool)
            await uow.commit()

        with pytest.raises(SpendLimitExceeded):
            await reserving

    async def test_times_out_waiting_without_a_second_attempt(
        self, database: Database, superuser: AsyncEngine, database_roles: DatabaseRoles, tenant: Tenant
    ) -> None:
        """A timeout must not count as a broken connection. A second attempt would wait as long again."""
        impatient = Database(database_roles.login, timeout_seconds=0.5)
        waiters: set[int] = set()
        async with UnitsOfWork(database).writing(tenant.organization) as uow:
            await uow[LedgerLock].lock_exclusively()
            reserving = asyncio.create_task(reserve(impatient, tenant.organization))
            while not reserving.done():
                waiters |= await lock_waiters(superuser)
        await impatient.close()

        with pytest.raises(DatabaseUnavailable):
            await reserving
        assert len(waiters) == 1
