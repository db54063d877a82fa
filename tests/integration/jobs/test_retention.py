"""Expired rows are deleted in batches, and those of one kind do not depend on those of another."""

import asyncio
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.errors import DatabaseUnavailable
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.jobs.retention import ExpiredRowsWorker
from app.jobs.retention_repository import ExpiredRowsRepository, ExpiringRows
from tests.support.database.own_database import DatabaseRoles
from tests.support.database.rows import change, fetch

EXPIRED_KEYS = """
    INSERT INTO idempotency_key
        (organization_id, key_digest, request_digest, holder_id, held_until, resource_id, expires_at)
    SELECT :organization, CAST(CAST(n AS text) AS bytea), '', gen_random_uuid(), now(), gen_random_uuid(),
        now() - interval '1 hour' FROM generate_series(1, :keys) n
"""
ENDED_RESERVATION = """
    INSERT INTO spend_reservation SELECT :organization, gen_random_uuid(), 1, 'managed', NULL, NULL, NULL, 'settled',
        now() - interval '90 days', 'service', now() - interval '90 days', now() - interval '37 days'
"""
OLD_COUNTER = "INSERT INTO rate_counter SELECT :organization, 'url_checks', now() - interval '1 hour', 1"


@pytest.fixture
def organization() -> str:
    return f"org_{uuid4().hex[:16]}"


async def count(superuser: AsyncEngine, table: str, organization: str) -> int:
    (found,) = await fetch(
        superuser,
        f"SELECT count(*) AS n FROM {table} WHERE organization_id = :organization",
        organization=organization,
    )
    return int(found["n"])


class TestExpiredRows:
    async def test_are_deleted_in_batches(
        self, own_database: Database, own_superuser: AsyncEngine, organization: str
    ) -> None:
        await change(own_superuser, EXPIRED_KEYS, organization=organization, keys=5)
        units = UnitsOfWork(own_database)

        async with units.unscoped(ExpiredRowsRepository) as (expired, _):
            assert await expired.purge(ExpiringRows.IDEMPOTENCY_KEYS, at_most=2) == 2
        assert await count(own_superuser, "idempotency_key", organization) == 3
        await ExpiredRowsWorker(units, rows_at_once=2).run()

        assert await count(own_superuser, "idempotency_key", organization) == 0

    async def test_are_left_when_the_worker_stops(
        self, own_database: Database, own_superuser: AsyncEngine, organization: str
    ) -> None:
        await change(own_superuser, EXPIRED_KEYS, organization=organization, keys=2)
        stop = asyncio.Event()
        stop.set()

        await ExpiredRowsWorker(UnitsOfWork(own_database), rows_at_once=1).run(stop)

        assert await count(own_superuser, "idempotency_key", organization) == 2

    async def test_that_cannot_be_deleted_do_not_keep_the_others(
        self,
        own_roles: DatabaseRoles,
        own_superuser: AsyncEngine,
        organization: str,
    ) -> None:
        await change(own_superuser, EXPIRED_KEYS, organization=organization, keys=1)
        await change(own_superuser, ENDED_RESERVATION, organization=organization)
        await change(own_superuser, OLD_COUNTER, organization=organization)
        database = Database(own_roles.login, timeout_seconds=0.5)
        worker = ExpiredRowsWorker(UnitsOfWork(database))

        async with own_superuser.begin() as connection, asyncio.timeout(30):
            await connection.execute(sa.text("LOCK TABLE idempotency_key"))
            with pytest.raises(DatabaseUnavailable):
                await worker.run()
        left = {
            table: await count(own_superuser, table, organization)
            for table in ("idempotency_key", "spend_reservation", "rate_counter")
        }
        await worker.run()

        assert left == {"idempotency_key": 1, "spend_reservation": 0, "rate_counter": 0}
        assert await count(own_superuser, "idempotency_key", organization) == 0
        await database.close()
