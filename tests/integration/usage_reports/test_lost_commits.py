"""Rollups of a cell on a worker of Citus, while the worker commits what its coordinator does not know of any more.

Skipped where PostgreSQL does not have the extension.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import sqlalchemy as sa

from app.database.connections import connect
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.settings.settings import Settings
from app.usage_reports.rollup_repository import RollupRepository, RollupStep
from app.usage_reports.rollup_worker import RollupWorker
from tests.support.database.bare_servers import BareServer
from tests.support.database.celled import ingest, requests_in_report
from tests.support.database.celled_on_citus import Cluster, celled_on_citus
from tests.support.database.citus import CitusCluster, needs_own_citus, run_on
from tests.support.polling import until
from tests.support.requests.usage_events import event
from tests.support.tenant import MakeToken, Tenant

pytestmark = [pytest.mark.slow, needs_own_citus]

_RELOAD = "SELECT pg_reload_conf()"
_NEXT_NUMBER = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::int8 AS n"
_SHARD = "SELECT shard_name FROM citus_shards WHERE table_name = to_regclass('cell_1.job_queue')"


@pytest.fixture
async def celled(cluster: CitusCluster, settings: Settings, make_token: MakeToken) -> AsyncIterator[Cluster]:
    async with celled_on_citus(cluster, settings, make_token) as celled:
        yield celled


@asynccontextmanager
async def commits_held(worker: BareServer) -> AsyncIterator[None]:
    """Let each COMMIT of this server wait for a standby that does not exist."""
    await run_on(worker.superuser, "ALTER SYSTEM SET synchronous_standby_names = 'missing'", _RELOAD)
    try:
        yield
    finally:
        for name in ("synchronous_standby_names", "synchronous_commit"):
            await run_on(worker.superuser, f"ALTER SYSTEM RESET {name}", _RELOAD)


@asynccontextmanager
async def queue_locked(node: sa.URL, shard: str) -> AsyncIterator[None]:
    """Let ingestion wait before its last statement."""
    connection = await connect(node)
    try:
        async with connection.transaction():
            await connection.execute("SET LOCAL citus.enable_manual_changes_to_shards = on")
            await connection.execute(f"LOCK TABLE cell_1.{shard.rpartition('.')[2]} IN SHARE MODE")
            yield
    finally:
        await connection.close()


async def until_waits(node: sa.URL, kind: str, *, waits: bool = True) -> None:
    """Wait until a session of the service waits for this, or none does."""
    await until(
        lambda: run_on(
            node,
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND usename = 'byok_app'"
            f" AND '{kind}' IN (wait_event_type, wait_event)",
        ),
        lambda found: bool(found) == waits,
    )


async def step(celled: Cluster, tenant: Tenant) -> RollupStep:
    """One step of a rollup, without a look at the queue."""
    database = Database(celled.roles.login)
    try:
        async with UnitsOfWork(database).writing(tenant.organization) as uow:
            done = await uow[RollupRepository].roll_up()
            await uow.commit()
    finally:
        await database.close()
    return done


class TestLostCommits:
    async def test_a_rollup_waits_for_a_commit_whose_coordinator_crashed(
        self, celled: Cluster, cluster: CitusCluster
    ) -> None:
        """The worker's COMMIT of one event waits for its standby."""
        lost, other = await celled.tenant_in("cell_1"), await celled.tenant_in("cell_1")
        elsewhere = await celled.tenant_in("cell_2")
        coordinator, worker = cluster.servers[0], await celled.worker(cluster, "cell_1")
        node = worker.superuser.set(database=celled.roles.name)
        repeated = event()
        async with commits_held(worker):
            ingesting = asyncio.create_task(ingest(lost, repeated))
            await until_waits(node, "SyncRep")
            await asyncio.to_thread(coordinator.kill)
            assert (await ingesting).status_code == 503
            await asyncio.to_thread(coordinator.start)
            # Later commits do not wait.
            await run_on(node, "ALTER SYSTEM SET synchronous_commit = local", _RELOAD)
            (number,) = await celled.rows(_NEXT_NUMBER)
            for tenant in (other, elsewhere):
                assert (await ingest(tenant, event())).status_code == 200
            for tenant in (lost, other, elsewhere):
                await celled.services[RollupWorker].roll_up(tenant.organization)

            for tenant in (lost, other):
                assert await celled.watermark("cell_1", tenant) < number["n"]
                assert await celled.is_queued("cell_1", tenant)
            assert await celled.watermark("cell_2", elsewhere) >= number["n"]
            assert not await celled.is_queued("cell_2", elsewhere)
            assert [await requests_in_report(it) for it in (lost, other, elsewhere)] == [1, 2, 2]

        await until_waits(node, "SyncRep", waits=False)
        assert (await ingest(lost, repeated)).json()["duplicates"] == 1
        for tenant in (lost, other, elsewhere):
            await celled.services[RollupWorker].roll_up(tenant.organization)
            assert not await celled.is_queued("cell_1", tenant)
            assert await requests_in_report(tenant) == 2

    async def test_a_rollup_does_not_wait_for_a_prepared_transaction_of_another_application(
        self, celled: Cluster, cluster: CitusCluster
    ) -> None:
        tenant = await celled.tenant_in("cell_1")
        worker = await celled.worker(cluster, "cell_1")
        node = worker.superuser.set(database=celled.roles.name)
        await run_on(node, "BEGIN", "CREATE TABLE other ()", "PREPARE TRANSACTION 'tx|42'")
        try:
            assert (await step(celled, tenant)).has_moved
        finally:
            await run_on(node, "ROLLBACK PREPARED 'tx|42'")

    async def test_a_rollup_does_not_wait_for_transactions_that_run(
        self, celled: Cluster, cluster: CitusCluster
    ) -> None:
        running, other = await celled.tenant_in("cell_1"), await celled.tenant_in("cell_1")
        worker = await celled.worker(cluster, "cell_1")
        node = worker.superuser.set(database=celled.roles.name)
        (shard,) = await celled.rows(_SHARD)
        (number,) = await celled.rows(_NEXT_NUMBER)

        async with queue_locked(node, shard["shard_name"]):
            ingesting = asyncio.create_task(ingest(running, event()))
            await until_waits(node, "Lock")
            assert (await step(celled, other)).has_moved

        assert (await ingesting).status_code == 200
        assert 0 < await celled.watermark("cell_1", other) <= number["n"] + 1
        await celled.services[RollupWorker].roll_up(running.organization)
        assert await requests_in_report(running) == 2
