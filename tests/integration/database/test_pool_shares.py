"""One organization cannot use all connections of the pool, and bulk reads leave some of them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from app.core.errors import ConcurrencyLimited, DatabaseUnavailable
from app.database.engine import Database
from app.database.pool_shares import PoolQuotas
from app.database.unit_of_work import UnitsOfWork
from tests.support.database.own_database import DatabaseRoles


@pytest.fixture
async def units(database_roles: DatabaseRoles) -> AsyncIterator[UnitsOfWork]:
    """Four connections: two for each organization, two that bulk reads never use."""
    database = Database(
        database_roles.login,
        pool_size=4,
        timeout_seconds=1,
        quotas=PoolQuotas(per_organization=2, reserved=2),
    )
    yield UnitsOfWork(database)
    await database.close()


class TestPerOrganization:
    async def test_quota_in_use_rejects_only_its_organization(self, units: UnitsOfWork) -> None:
        async with AsyncExitStack() as held:
            for _ in range(2):
                await held.enter_async_context(units.writing("org_greedy"))

            with pytest.raises(ConcurrencyLimited):
                async with units.reading("org_greedy"):
                    pass
            async with asyncio.timeout(1), units.reading("org_other"), units.writing("org_other"):
                pass

    async def test_bulk_reads_use_half_of_the_quota(self, units: UnitsOfWork) -> None:
        async with units.reading_in_bulk("org_greedy"):
            with pytest.raises(ConcurrencyLimited):
                async with units.reading_in_bulk("org_greedy"):
                    pass
            async with asyncio.timeout(1), units.reading("org_greedy"):
                pass

    async def test_waiting_session_gets_the_connection_that_becomes_free(self, units: UnitsOfWork) -> None:
        async def read() -> None:
            async with units.reading("org_greedy"):
                pass

        async with units.writing("org_greedy"):
            async with units.writing("org_greedy"):
                waiting = asyncio.create_task(read())
                await asyncio.sleep(0)
            await waiting

    async def test_background_jobs_have_no_quota(self, units: UnitsOfWork) -> None:
        async with AsyncExitStack() as held:
            for _ in range(4):
                await held.enter_async_context(units._database.session(None))


class TestReserve:
    async def test_bulk_reads_of_all_organizations_leave_the_reserve(self, units: UnitsOfWork) -> None:
        async with units.reading_in_bulk("org_a"), units.reading_in_bulk("org_b"):
            with pytest.raises(DatabaseUnavailable):
                async with units.reading_in_bulk("org_c"):
                    pass
            async with asyncio.timeout(1), units.reading("org_c"), units.writing_with_shared_lock("org_c"):
                pass

    async def test_share_is_returned_after_a_failure(self, units: UnitsOfWork) -> None:
        for _ in range(5):
            with pytest.raises(ZeroDivisionError):
                async with units.reading_in_bulk("org_a"):
                    raise ZeroDivisionError

        async with units.reading_in_bulk("org_a"), units.reading_in_bulk("org_b"):
            pass
