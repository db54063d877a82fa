"""A reservation begins when no change of mode or limits is under way, and goes by what is then."""

import asyncio
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from app.auth.principal import Caller
from app.core.clock import new_id
from app.core.errors import DatabaseUnavailable, SpendLimitExceeded
from app.database.engine import Database, DatabaseLogin
from app.database.ledger_lock import LedgerLock
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.spend_limits.limits import Enforcement, LimitPeriod, LimitScope, LimitTerms, SpendLimit, counts_from
from app.spend_limits.repository import LimitRepository
from app.spend_limits.reservation_service import ReservationRequest, ReservationService
from app.spend_limits.reservations import Reservation
from app.usage_mode.modes import UsageMode
from app.usage_mode.repository import UsageModeRepository
from tests.conftest import Tenant
from tests.rows import fetch
from tests.unpriced import Unpriced
from tests.waiting import until

REQUEST = ReservationRequest(
    amount=1,
    model=None,
    input_tokens=0,
    max_output_tokens=0,
    endpoint_id=None,
    feature=None,
    ttl=timedelta(minutes=10),
)


async def reserve(database: Database, organization: str) -> Reservation:
    caller = Caller(subject="service", organization_id=organization, request_id="")
    return await ReservationService(UnitsOfWork(database), Unpriced()).reserve(
        caller, REQUEST, reservation_id=new_id()
    )


async def nothing_left(uow: UnitOfWork) -> SpendLimit:
    now = await uow[LimitRepository].clock()
    terms = LimitTerms(
        name="Nothing",
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


async def waiting(owner: AsyncEngine) -> set[int]:
    """Whoever waits for a lock on mode and limits."""
    found = await fetch(owner, "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    return {row["pid"] for row in found}


class TestReservation:
    async def test_that_waits_for_a_switch_is_made_under_its_mode(
        self, database: Database, owner: AsyncEngine, tenant: Tenant
    ) -> None:
        async with UnitsOfWork(database).writing(tenant.organization) as uow:
            await uow[LedgerLock].exclusive()
            await uow[UsageModeRepository].append(UsageMode.BYO, None, changed_by="admin")
            reserving = asyncio.create_task(reserve(database, tenant.organization))
            await until(lambda: waiting(owner), bool)
            await uow.commit()

        assert (await reserving).spender.mode is UsageMode.BYO

    async def test_that_waits_for_a_limit_is_held_by_it(
        self, database: Database, owner: AsyncEngine, tenant: Tenant
    ) -> None:
        async with UnitsOfWork(database).writing(tenant.organization) as uow:
            await uow[LedgerLock].exclusive()
            await uow[LimitRepository].insert(await nothing_left(uow))
            reserving = asyncio.create_task(reserve(database, tenant.organization))
            await until(lambda: waiting(owner), bool)
            await uow.commit()

        with pytest.raises(SpendLimitExceeded):
            await reserving

    async def test_gives_up_once_it_has_waited_in_vain(
        self, database: Database, owner: AsyncEngine, owner_url: sa.URL, tenant: Tenant
    ) -> None:
        """The connection is not taken for a dead one, or another would wait as long again."""
        hasty = Database(DatabaseLogin(url=owner_url, set_role=True), timeout_seconds=0.5)
        waited: set[int] = set()
        async with UnitsOfWork(database).writing(tenant.organization) as uow:
            await uow[LedgerLock].exclusive()
            reserving = asyncio.create_task(reserve(hasty, tenant.organization))
            while not reserving.done():
                waited |= await waiting(owner)
        await hasty.close()

        with pytest.raises(DatabaseUnavailable):
            await reserving
        assert len(waited) == 1
