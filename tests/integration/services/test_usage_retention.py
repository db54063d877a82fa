"""How long the ledger keeps its rows, on a database of its own: partitions are everybody's."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.core.errors import DatabaseUnavailable
from app.database import migrations
from app.database.engine import Database, DatabaseLogin
from app.database.unit_of_work import UnitsOfWork
from app.usage import retention as usage_retention
from app.usage.retention import UsageRetentionWorker
from app.usage.retention_repository import UsageRetentionRepository
from app.usage_reports.rollup_worker import RollupWorker
from tests.rows import change, fetch

RETENTION = timedelta(days=400)
OLD = datetime.now(UTC) - timedelta(days=500)
YOUNG = datetime.now(UTC) - timedelta(days=20)


@pytest.fixture
async def url(server_url: sa.URL) -> AsyncIterator[sa.URL]:
    url = server_url.set(database=f"byok_test_{uuid4().hex[:12]}")
    await migrations.create_database(url)
    await migrations.migrate(url)
    yield url
    engine = create_async_engine(url.set(database="postgres"), isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.execute(sa.text(f"DROP DATABASE {url.database} WITH (FORCE)"))
    await engine.dispose()


@pytest.fixture
async def own(url: sa.URL) -> AsyncIterator[AsyncEngine]:
    """The owner's engine on it."""
    engine = create_async_engine(url)
    yield engine
    await engine.dispose()


@pytest.fixture
async def retention(url: sa.URL) -> AsyncIterator[UsageRetentionWorker]:
    database = Database(DatabaseLogin(url=url, set_role=True), timeout_seconds=20)
    yield UsageRetentionWorker(UnitsOfWork(database), keep_for=RETENTION)
    await database.close()


async def months(own: AsyncEngine) -> list[str]:
    found = await fetch(
        own,
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits"
        " WHERE inhparent = 'usage_event'::regclass ORDER BY 1",
    )
    return [row["name"] for row in found]


async def fill(own: AsyncEngine, at: datetime, count: int) -> None:
    await change(own, "SELECT ensure_usage_partitions(:at, :at)", at=at)
    await change(
        own,
        "INSERT INTO usage_event_key SELECT 'org', 'e' || extract(epoch FROM cast(:at AS timestamptz)) || n, '', :at"
        " FROM generate_series(1, :count) n",
        at=at,
        count=count,
    )
    await change(
        own,
        "INSERT INTO usage_event SELECT organization_id, started_at, event_id, 0, NULL, now(), 1, 'managed',"
        " NULL, NULL, 'm', NULL, NULL, NULL, NULL, 'succeeded', 'reported', NULL, NULL, NULL, 0, 0, 0, 0, 0, 0,"
        " NULL, 0, NULL, 0, NULL, NULL FROM usage_event_key WHERE started_at = :at",
        at=at,
    )


async def kept(own: AsyncEngine) -> tuple[int, int]:
    """How many rows, how many event ids."""
    (found,) = await fetch(
        own,
        "SELECT (SELECT count(*) FROM usage_event) AS rows, (SELECT count(*) FROM usage_event_key) AS keys",
    )
    return found["rows"], found["keys"]


class TestRun:
    async def test_drops_months_past_retention_with_their_event_ids(
        self, own: AsyncEngine, retention: UsageRetentionWorker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(usage_retention, "KEYS_AT_ONCE", 10)
        await fill(own, OLD, 25)
        await fill(own, YOUNG, 5)

        await retention.run()

        assert await kept(own) == (5, 5)
        assert f"usage_event_y{OLD:%Y}m{OLD:%m}" not in await months(own)

    async def test_keeps_a_month_whose_last_row_is_within_retention(
        self, own: AsyncEngine, retention: UsageRetentionWorker
    ) -> None:
        edge = datetime.now(UTC) - RETENTION
        await fill(own, edge.replace(day=1, hour=0, minute=0, second=0, microsecond=0), 3)

        await retention.run()

        assert await kept(own) == (3, 3)

    async def test_makes_the_months_that_are_needed(
        self, own: AsyncEngine, retention: UsageRetentionWorker
    ) -> None:
        before = await months(own)
        await change(own, f"DROP TABLE {before[-1]}")

        await retention.run()

        assert await months(own) == before

    async def test_may_be_run_by_many_at_once(
        self, own: AsyncEngine, retention: UsageRetentionWorker
    ) -> None:
        await fill(own, OLD, 25)

        await asyncio.gather(*(retention.run() for _ in range(5)))
        await retention.run()

        assert await kept(own) == (0, 0)

    async def test_gives_way_to_a_reader_and_keeps_the_ids_until_the_rows_are_gone(
        self, own: AsyncEngine, retention: UsageRetentionWorker
    ) -> None:
        await fill(own, OLD, 3)

        async with own.begin() as reader:
            await reader.execute(sa.text("SELECT count(*) FROM usage_event"))
            with pytest.raises(DatabaseUnavailable):
                await retention.run()
        assert await kept(own) == (3, 3)

        await retention.run()
        assert await kept(own) == (0, 0)

    async def test_purges_no_id_while_its_month_is_there(
        self, own: AsyncEngine, retention: UsageRetentionWorker
    ) -> None:
        await fill(own, OLD, 3)

        async with retention._units.across(UsageRetentionRepository) as (ledger, _):
            purged = await ledger.purge_keys(older_than=datetime.now(UTC) - RETENTION, at_most=100)

        assert purged == 0
        assert await kept(own) == (3, 3)

    async def test_takes_nothing_of_seventy_days_whatever_it_is_told(
        self, own: AsyncEngine, retention: UsageRetentionWorker
    ) -> None:
        await fill(own, YOUNG, 3)
        never = datetime.now(UTC) + timedelta(days=4000)

        async with retention._units.across(UsageRetentionRepository) as (ledger, _):
            assert await ledger.drop_partitions(older_than=never) == 0
        async with retention._units.across(UsageRetentionRepository) as (ledger, _):
            assert await ledger.purge_keys(older_than=never, at_most=100) == 0

        assert await kept(own) == (3, 3)

    async def test_keeps_a_month_until_its_rows_are_in_the_sums(
        self, own: AsyncEngine, retention: UsageRetentionWorker
    ) -> None:
        await fill(own, OLD, 3)
        await change(own, "INSERT INTO job_queue VALUES ('org', 'fold_usage', :id, now())", id=UUID(int=0))

        await retention.run()
        assert await kept(own) == (3, 3)

        await RollupWorker(retention._units).fold("org")
        await retention.run()
        assert await kept(own) == (0, 0)

    async def test_keeps_a_month_that_is_folded_in_part(
        self, own: AsyncEngine, retention: UsageRetentionWorker
    ) -> None:
        await fill(own, OLD, 3)
        await change(own, "INSERT INTO job_queue VALUES ('org', 'fold_usage', :id, now())", id=UUID(int=0))
        await change(own, "INSERT INTO usage_fold VALUES ('org', 1, now())")  # the rows have number 1

        await retention.run()
        assert await kept(own) == (3, 3)

        await change(own, "UPDATE usage_fold SET folded_before = 2")
        await retention.run()
        assert await kept(own) == (0, 0)
