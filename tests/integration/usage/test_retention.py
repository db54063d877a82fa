"""Retention of the ledger, in a separate database because all organizations share the partitions."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.core.errors import DatabaseUnavailable
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.usage import retention as usage_retention
from app.usage.retention import UsageRetentionWorker
from app.usage.retention_repository import UsageRetentionRepository
from app.usage_reports.rollup_worker import RollupWorker
from tests.support.database.own_database import DatabaseRoles, copied_database
from tests.support.database.rows import change, fetch

RETENTION = timedelta(days=400)
OLD = datetime.now(UTC) - timedelta(days=500)
YOUNG = datetime.now(UTC) - timedelta(days=20)


@pytest.fixture
async def roles(template_database: DatabaseRoles) -> AsyncIterator[DatabaseRoles]:
    async with copied_database(template_database) as roles:
        yield roles


@pytest.fixture
async def superuser_engine(roles: DatabaseRoles) -> AsyncIterator[AsyncEngine]:
    """An engine that sees the rows of all organizations."""
    engine = create_async_engine(roles.superuser)
    yield engine
    await engine.dispose()


@pytest.fixture
async def retention(roles: DatabaseRoles) -> AsyncIterator[UsageRetentionWorker]:
    database = Database(roles.login, timeout_seconds=20)
    yield UsageRetentionWorker(UnitsOfWork(database), keep_for=RETENTION)
    await database.close()


async def months(superuser_engine: AsyncEngine, table: str = "usage_event") -> list[str]:
    found = await fetch(
        superuser_engine,
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits"
        " WHERE inhparent = CAST(CAST(:table AS text) AS regclass) ORDER BY 1",
        table=table,
    )
    return [row["name"] for row in found]


async def fill(superuser_engine: AsyncEngine, at: datetime, count: int) -> None:
    await change(superuser_engine, "SELECT ensure_usage_partitions(:at, :at)", at=at)
    await change(
        superuser_engine,
        "INSERT INTO usage_event_key SELECT 'org', 'e' || extract(epoch FROM cast(:at AS timestamptz)) || n, '', :at"
        " FROM generate_series(1, :count) n",
        at=at,
        count=count,
    )
    await change(
        superuser_engine,
        "INSERT INTO usage_request_key SELECT 'org', event_id, started_at FROM usage_event_key WHERE started_at = :at",
        at=at,
    )
    await change(
        superuser_engine,
        "INSERT INTO usage_event SELECT organization_id, started_at, event_id, 0, NULL, now(), 1, 'managed',"
        " NULL, NULL, 'm', NULL, NULL, NULL, NULL, 'succeeded', 'reported', NULL, NULL, NULL, 0, 0, 0, 0, 0, 0,"
        " NULL, 0, NULL, 0, NULL, NULL FROM usage_event_key WHERE started_at = :at",
        at=at,
    )


async def stored_counts(superuser_engine: AsyncEngine) -> tuple[int, int]:
    """Return the number of rows and of event ids. There are as many ids of provider requests."""
    (found,) = await fetch(
        superuser_engine,
        "SELECT (SELECT count(*) FROM usage_event) AS rows, (SELECT count(*) FROM usage_event_key) AS keys,"
        " (SELECT count(*) FROM usage_request_key) AS requests",
    )
    assert found["requests"] == found["keys"]
    return found["rows"], found["keys"]


class TestRetention:
    async def test_drops_expired_months_and_deletes_their_event_ids(
        self, superuser_engine: AsyncEngine, retention: UsageRetentionWorker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(usage_retention, "KEYS_AT_ONCE", 10)
        await fill(superuser_engine, OLD, 25)
        await fill(superuser_engine, YOUNG, 5)

        await retention.run()

        assert await stored_counts(superuser_engine) == (5, 5)
        assert f"usage_event_y{OLD:%Y}m{OLD:%m}" not in await months(superuser_engine)

    async def test_drops_the_usage_objects_with_their_month(
        self, superuser_engine: AsyncEngine, retention: UsageRetentionWorker
    ) -> None:
        for at in (OLD, YOUNG):
            await fill(superuser_engine, at, 1)
            await change(
                superuser_engine,
                "INSERT INTO usage_object VALUES ('org', date_trunc('month', CAST(:at AS timestamptz)), now(), 1, '')",
                at=at,
            )
        assert len(await fetch(superuser_engine, "SELECT * FROM usage_object")) == 2

        await retention.run()

        assert len(await fetch(superuser_engine, "SELECT * FROM usage_object")) == 1
        objects = await months(superuser_engine, "usage_object")
        assert [name.removeprefix("usage_object") for name in objects] == [
            name.removeprefix("usage_event")
            for name in await months(superuser_engine)
            if name.removeprefix("usage_event") >= objects[0].removeprefix("usage_object")
        ]
        assert f"usage_object_y{OLD:%Y}m{OLD:%m}" not in objects

    async def test_keeps_a_month_whose_last_row_is_within_retention(
        self, superuser_engine: AsyncEngine, retention: UsageRetentionWorker
    ) -> None:
        edge = datetime.now(UTC) - RETENTION
        await fill(superuser_engine, edge.replace(day=1, hour=0, minute=0, second=0, microsecond=0), 3)

        await retention.run()

        assert await stored_counts(superuser_engine) == (3, 3)

    async def test_creates_missing_months(
        self, superuser_engine: AsyncEngine, retention: UsageRetentionWorker
    ) -> None:
        before = await months(superuser_engine)
        await change(superuser_engine, f"DROP TABLE {before[-1]}")

        await retention.run()

        assert await months(superuser_engine) == before

    async def test_may_run_concurrently(
        self, superuser_engine: AsyncEngine, retention: UsageRetentionWorker
    ) -> None:
        await fill(superuser_engine, OLD, 25)

        await asyncio.gather(*(retention.run() for _ in range(5)))
        await retention.run()

        assert await stored_counts(superuser_engine) == (0, 0)

    async def test_does_not_wait_for_a_reader_and_keeps_event_ids_until_the_rows_are_dropped(
        self, superuser_engine: AsyncEngine, retention: UsageRetentionWorker
    ) -> None:
        await fill(superuser_engine, OLD, 3)

        async with superuser_engine.begin() as reader:
            await reader.execute(sa.text("SELECT count(*) FROM usage_event"))
            with pytest.raises(DatabaseUnavailable):
                await retention.run()
        assert await stored_counts(superuser_engine) == (3, 3)

        await retention.run()
        assert await stored_counts(superuser_engine) == (0, 0)

    async def test_keeps_event_ids_while_their_month_exists(
        self, superuser_engine: AsyncEngine, retention: UsageRetentionWorker
    ) -> None:
        await fill(superuser_engine, OLD, 3)

        async with retention._units.unscoped(UsageRetentionRepository) as (ledger, _):
            deleted = await ledger.purge_keys(older_than=datetime.now(UTC) - RETENTION, at_most=100)

        assert deleted == 0
        assert await stored_counts(superuser_engine) == (3, 3)

    async def test_never_drops_months_younger_than_seventy_days(
        self, superuser_engine: AsyncEngine, retention: UsageRetentionWorker
    ) -> None:
        await fill(superuser_engine, YOUNG, 3)
        never = datetime.now(UTC) + timedelta(days=4000)

        async with retention._units.unscoped(UsageRetentionRepository) as (ledger, _):
            assert await ledger.drop_partitions(older_than=never) == 0
        async with retention._units.unscoped(UsageRetentionRepository) as (ledger, _):
            assert await ledger.purge_keys(older_than=never, at_most=100) == 0

        assert await stored_counts(superuser_engine) == (3, 3)

    async def test_keeps_a_month_until_its_rows_are_rolled_up(
        self, superuser_engine: AsyncEngine, retention: UsageRetentionWorker
    ) -> None:
        await fill(superuser_engine, OLD, 3)
        await change(
            superuser_engine, "INSERT INTO job_queue VALUES ('org', 'fold_usage', :id, now())", id=UUID(int=0)
        )

        await retention.run()
        assert await stored_counts(superuser_engine) == (3, 3)

        await RollupWorker(retention._units).roll_up("org")
        await retention.run()
        assert await stored_counts(superuser_engine) == (0, 0)

    async def test_keeps_a_month_that_is_partly_rolled_up(
        self, superuser_engine: AsyncEngine, retention: UsageRetentionWorker
    ) -> None:
        await fill(superuser_engine, OLD, 3)
        await change(
            superuser_engine, "INSERT INTO job_queue VALUES ('org', 'fold_usage', :id, now())", id=UUID(int=0)
        )
        await change(
            superuser_engine, "INSERT INTO usage_fold VALUES ('org', 1, now())"
        )  # the rows have number 1

        await retention.run()
        assert await stored_counts(superuser_engine) == (3, 3)

        await change(superuser_engine, "UPDATE usage_fold SET folded_before = 2")
        await retention.run()
        assert await stored_counts(superuser_engine) == (3, 3)

        await change(superuser_engine, "UPDATE usage_fold SET wide_folded_before = 2")
        await retention.run()
        assert await stored_counts(superuser_engine) == (0, 0)
