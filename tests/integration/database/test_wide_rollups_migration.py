"""The migration that adds wide rollups: they catch up with the ledger, and scopes of limits are normalized."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.database import migrations
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.usage_reports.rollup_worker import RollupWorker
from tests.support.database.ledger import event, ingest
from tests.support.database.migrating import downgrade
from tests.support.database.own_database import DatabaseRoles, new_database
from tests.support.database.rows import change, fetch
from tests.support.usage.rollups import rolled_up_requests

REVISION = "b7e2c05d9f14"


@pytest.fixture
async def roles(database_server: DatabaseRoles) -> AsyncIterator[DatabaseRoles]:
    async with new_database(database_server) as roles:
        yield roles


@pytest.fixture
async def superuser_engine(roles: DatabaseRoles) -> AsyncIterator[AsyncEngine]:
    """An engine that sees the rows of all organizations."""
    engine = create_async_engine(roles.superuser)
    yield engine
    await engine.dispose()


@pytest.fixture
async def database(roles: DatabaseRoles) -> AsyncIterator[Database]:
    database = Database(roles.login)
    yield database
    await database.close()


class TestWideRollups:
    async def test_catch_up_with_rows_that_others_have_already(
        self, superuser_engine: AsyncEngine, database: Database
    ) -> None:
        units, at = UnitsOfWork(database), datetime.now(UTC) - timedelta(days=1)
        await ingest(database, "org", event(at), event(at))
        await RollupWorker(units).roll_up("org")
        await ingest(database, "org", event(at))
        # As after the migration: the rows of the first batch are in all rollups but the wide ones.
        await change(superuser_engine, "DELETE FROM usage_hour_wide")
        await change(superuser_engine, "DELETE FROM usage_day_wide")
        await change(superuser_engine, "UPDATE usage_fold SET wide_folded_before = 0")

        await RollupWorker(units).roll_up("org")

        assert await rolled_up_requests(superuser_engine, "org") == {3}
        (watermarks,) = await fetch(
            superuser_engine, "SELECT folded_before, wide_folded_before FROM usage_fold"
        )
        assert watermarks["folded_before"] == watermarks["wide_folded_before"] > 0

    async def test_restart_after_a_restore_without_counting_twice(
        self, superuser_engine: AsyncEngine, database: Database
    ) -> None:
        units, at = UnitsOfWork(database), datetime.now(UTC) - timedelta(days=1)
        await ingest(database, "org", event(at), event(at))
        await RollupWorker(units).roll_up("org")
        await ingest(database, "org", event(at))
        await change(superuser_engine, "DELETE FROM usage_hour_wide")
        await change(superuser_engine, "DELETE FROM usage_day_wide")
        await change(superuser_engine, "UPDATE usage_fold SET wide_folded_before = 0")
        # Transaction numbers on the server of the dump are much larger than here.
        await change(superuser_engine, "UPDATE usage_event SET ingest_xid = ingest_xid + 1000000000")
        await change(superuser_engine, "UPDATE usage_fold SET folded_before = folded_before + 1000000000")

        async with superuser_engine.begin() as connection:
            await connection.execute(sa.text("SELECT reset_usage_watermarks()"))

        numbers = await fetch(superuser_engine, "SELECT ingest_xid FROM usage_event ORDER BY 1")
        assert [row["ingest_xid"] for row in numbers] == [1, 1, 2]
        await RollupWorker(units).roll_up("org")
        assert await rolled_up_requests(superuser_engine, "org") == {3}

    async def test_are_queued_for_every_organization_and_scopes_are_normalized(
        self, roles: DatabaseRoles, superuser_engine: AsyncEngine
    ) -> None:
        await downgrade(roles.owner, f"{REVISION}-1")
        await change(superuser_engine, "INSERT INTO usage_fold VALUES ('org', 7, now())")
        for name, feature in (("composed", "Cafe\u0301\u00a0"), ("plain", "chat"), ("all", None)):
            await change(
                superuser_engine,
                "INSERT INTO spend_limit (organization_id, id, name, amount, period, scope_mode, scope_model,"
                " scope_feature, enforcement, thresholds, counts_from, revision, created_at, created_by, updated_at) VALUES"
                " ('org', :id, :name, 1, 'day', 'any', 'as sent ', :feature, 'notify', '{}', now(), 1, now(), 'ada', now())",
                id=uuid4(),
                name=name,
                feature=feature,
            )

        await migrations.migrate(roles.owner)

        limits = await fetch(superuser_engine, "SELECT name, scope_feature FROM spend_limit ORDER BY name")
        assert {row["name"]: row["scope_feature"] for row in limits} == {
            "all": None,
            "composed": "Caf\u00e9",
            "plain": "chat",
        }
        models = await fetch(superuser_engine, "SELECT DISTINCT scope_model FROM spend_limit")
        assert [row["scope_model"] for row in models] == ["as sent "]
        (watermarks,) = await fetch(
            superuser_engine, "SELECT folded_before, wide_folded_before FROM usage_fold"
        )
        assert dict(watermarks) == {"folded_before": 7, "wide_folded_before": 0}
        (item,) = await fetch(superuser_engine, "SELECT * FROM job_queue WHERE kind = 'fold_usage'")
        assert (item["organization_id"], item["id"]) == ("org", UUID(int=0))
        assert item["due_at"] > datetime.now(UTC) + timedelta(minutes=10)
