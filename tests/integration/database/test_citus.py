"""Cells on the workers of a Citus cluster: where they are, a worker that is killed, moves between workers.

Skipped where PostgreSQL does not have the extension.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from uuid import uuid4

import pytest
import sqlalchemy as sa

from app.composition.scaling_checks import check_cells
from app.core.errors import DatabaseUnavailable
from app.database.cells.moves import MoveRefused
from app.pricing.backfill import PriceBackfillService
from app.settings.settings import Settings
from app.usage_reports.rollup_repository import WatermarkAhead
from app.usage_reports.rollup_worker import RollupWorker
from tests.support.database.celled import ingest, requests_in_report
from tests.support.database.celled_on_citus import Cluster, celled_on_citus
from tests.support.database.citus import CitusCluster, needs_own_citus, run_on
from tests.support.database.own_database import run_as_superuser
from tests.support.polling import resolved, until
from tests.support.requests.usage_events import event
from tests.support.tenant import MakeToken, Tenant

pytestmark = [pytest.mark.slow, needs_own_citus]

# Of the cells' tables; those of shards have a number at the end.
_POLICIES = """
    SELECT schemaname, tablename, policyname, permissive, roles::text, cmd, qual, with_check FROM pg_policies
    WHERE schemaname IN ('cell_1', 'cell_2') AND tablename !~ '_[0-9]+$'
"""


@pytest.fixture
async def celled(cluster: CitusCluster, settings: Settings, make_token: MakeToken) -> AsyncIterator[Cluster]:
    async with celled_on_citus(cluster, settings, make_token) as celled:
        yield celled


class PreparedTransaction:
    """A transaction that the coordinator has committed, and the worker of a cell only prepared when it was killed.

    Citus looks for them only when it is asked, because it is configured so here.
    """

    def __init__(self, celled: Cluster, worker: sa.URL) -> None:
        self.gid = f"citus_0_{uuid4().int}"
        self._coordinator, self._worker = celled.roles.superuser, worker.set(database=celled.roles.name)

    async def prepare(self) -> int:
        """Returns the number of the transaction."""
        prepare = f"PREPARE TRANSACTION '{self.gid}'"
        await run_on(self._worker, "BEGIN", "CREATE TABLE prepared ()", prepare)
        (row,) = await run_on(
            self._coordinator,
            f"INSERT INTO pg_dist_transaction (groupid, gid) SELECT groupid, '{self.gid}' FROM pg_dist_node"
            f" WHERE nodeport = {self._worker.port} RETURNING xmin::text::int8 AS id",
        )
        found: int = row["id"]
        return found

    async def commit(self) -> None:
        await run_on(self._worker, f"COMMIT PREPARED '{self.gid}'")


async def set_price(tenant: Tenant, model: str) -> None:
    """From now on, events of this model have a price."""
    override = {
        "model": model,
        "usd_per_million_tokens": {"uncached_input": "1", "output": "1"},
        "usd_per_thousand_web_searches": "1",
    }
    found = await tenant.request("PUT", f"{tenant.path}/price-overrides", json={"overrides": [override]})
    assert found.status_code == 200, found.text


class Clients:
    """Clients that ingest one event after another, and repeat each until it is accepted."""

    def __init__(self, *tenants: Tenant) -> None:
        self._tenants = tenants
        self._stop = asyncio.Event()
        self.sent = dict.fromkeys((tenant.organization for tenant in tenants), 0)
        self.statuses: dict[str, list[int]] = {tenant.organization: [] for tenant in tenants}

    async def run_during(self, action: Callable[[], Awaitable[object]]) -> None:
        tasks = [asyncio.create_task(self._ingest(tenant)) for tenant in self._tenants]
        try:
            await action()
        finally:
            self._stop.set()
            await asyncio.gather(*tasks)

    async def _ingest(self, tenant: Tenant) -> None:
        while not self._stop.is_set():
            new = event()
            self.sent[tenant.organization] += 1
            while (status := (await ingest(tenant, new)).status_code) != 200:
                self.statuses[tenant.organization].append(status)
            self.statuses[tenant.organization].append(status)

    async def until_each(self, number: int) -> None:
        """Wait until each client has had this number of further responses."""
        before = {name: len(found) for name, found in self.statuses.items()}
        await until(
            lambda: resolved(min(len(found) - before[name] for name, found in self.statuses.items())),
            lambda least: least >= number,
            timeout_seconds=60,
        )


class TestWorkers:
    async def test_each_cell_is_on_one_worker(self, celled: Cluster) -> None:
        places = {tuple((await celled.place(cell)).values()) for cell in ("cell_1", "cell_2")}
        assert len(places) == 2

    async def test_doctor_finds_all_nodes_and_english_messages(self, celled: Cluster) -> None:
        assert (await check_cells(celled.roles.login)).level == "ok"

    async def test_workers_have_the_policies_of_the_coordinator(
        self, celled: Cluster, cluster: CitusCluster
    ) -> None:
        """Citus creates a restrictive policy as a permissive one."""
        on_coordinator, *on_workers = [
            {tuple(row.values()) for row in await run_on(node.set(database=celled.roles.name), _POLICIES)}
            for node in cluster.nodes
        ]
        assert on_coordinator
        assert on_workers == [on_coordinator] * len(on_workers)

    async def test_a_killed_worker_gives_its_organizations_503_and_no_others(
        self, celled: Cluster, cluster: CitusCluster
    ) -> None:
        lost, other = await celled.tenant_in("cell_1"), await celled.tenant_in("cell_2")
        worker = await celled.worker(cluster, "cell_1")
        clients = Clients(lost, other)

        async def kill_and_start() -> None:
            await clients.until_each(5)
            await asyncio.to_thread(worker.kill)
            await clients.until_each(5)
            assert (await lost.get(f"{lost.path}/usage-events")).status_code == 503
            assert (await other.get(f"{other.path}/usage-events")).status_code == 200
            await asyncio.to_thread(worker.start)
            with suppress(DatabaseUnavailable):  # rows that are prepared are locked
                await celled.services[RollupWorker].roll_up(lost.organization)
            # Citus does so by itself, by default within a minute.
            await run_on(celled.roles.superuser, "SELECT recover_prepared_transactions()")

        await clients.run_during(kill_and_start)
        await celled.services[RollupWorker].roll_up(lost.organization)

        assert set(clients.statuses[other.organization]) == {200}
        assert set(clients.statuses[lost.organization]) == {200, 503}
        for tenant in (lost, other):
            assert await requests_in_report(tenant) == clients.sent[tenant.organization] + 1

    async def test_a_cell_moves_to_another_worker_while_requests_run(self, celled: Cluster) -> None:
        moving, other = await celled.tenant_in("cell_1"), await celled.tenant_in("cell_2")
        source, target = await celled.place("cell_1"), await celled.place("cell_2")
        clients = Clients(moving, other)

        async def move_schema() -> None:
            await clients.until_each(3)
            await run_on(
                celled.roles.superuser,
                f"SELECT citus_schema_move('cell_1', '{target['host']}', {target['port']}, 'force_logical')",
            )
            await clients.until_each(3)

        await clients.run_during(move_schema)

        assert await celled.place("cell_1") == target != source
        assert set(clients.statuses[other.organization]) == {200}
        assert set(clients.statuses[moving.organization]) <= {200, 503}
        for tenant in (moving, other):
            assert await requests_in_report(tenant) == clients.sent[tenant.organization] + 1

    async def test_a_killed_worker_keeps_others_from_corrections_and_backfills_only_until_it_is_back(
        self, celled: Cluster, cluster: CitusCluster
    ) -> None:
        """Citus sends what an INSERT of these statements inserted to all workers."""
        other = await celled.tenant_in("cell_2")
        corrected, unpriced = event(), event(model="of-no-list")
        assert (await ingest(other, corrected, unpriced)).status_code == 200
        correction = event(corrects=corrected["event_id"], usage={"input_tokens": 3})
        await set_price(other, unpriced["model"])
        worker = await celled.worker(cluster, "cell_1")

        await asyncio.to_thread(worker.kill)
        try:
            statuses = [(await ingest(other, it)).status_code for it in (correction, event())]
            with pytest.raises(DatabaseUnavailable):
                await celled.services[PriceBackfillService].run_for(other.organization, with_overrides=True)
        finally:
            await asyncio.to_thread(worker.start)

        assert statuses == [503, 200]
        assert (await ingest(other, correction)).status_code == 200
        backfilled = await celled.services[PriceBackfillService].run_for(
            other.organization, with_overrides=True
        )
        assert backfilled.priced == 1


class TestWatermarks:
    async def test_are_reset_in_a_cell_on_a_worker(self, celled: Cluster) -> None:
        tenant = await celled.tenant_in("cell_1")
        await celled.services[RollupWorker].roll_up(tenant.organization)
        assert (await ingest(tenant, event())).status_code == 200
        # Transaction numbers on the server of a dump are much larger than here.
        await run_as_superuser(
            celled.roles,
            f"UPDATE cell_1.usage_event SET ingest_xid = ingest_xid + {1 << 40}",
            f"UPDATE cell_1.usage_fold SET folded_before = folded_before + {1 << 40},"
            f" wide_folded_before = wide_folded_before + {1 << 40}",
            "DELETE FROM cell_1.job_queue",
        )
        with pytest.raises(WatermarkAhead):
            await celled.services[RollupWorker].roll_up(tenant.organization)

        await run_on(celled.roles.owner, "SELECT cell_1.reset_usage_watermarks()")

        assert await celled.is_queued("cell_1", tenant)
        assert (await ingest(tenant, event())).status_code == 200
        assert await requests_in_report(tenant) == 3
        await celled.services[RollupWorker].roll_up(tenant.organization)
        assert await celled.watermark("cell_1", tenant) > 2
        assert await requests_in_report(tenant) == 3


class TestRollups:
    async def test_do_not_pass_a_transaction_that_the_worker_has_yet_to_commit(
        self, celled: Cluster, cluster: CitusCluster
    ) -> None:
        held, other = await celled.tenant_in("cell_1"), await celled.tenant_in("cell_2")
        prepared = PreparedTransaction(celled, (await celled.worker(cluster, "cell_1")).superuser)
        transaction = await prepared.prepare()
        for tenant in (held, other):
            assert (await ingest(tenant, event())).status_code == 200
            await celled.services[RollupWorker].roll_up(tenant.organization)

        assert await celled.watermark("cell_1", held) <= transaction
        assert await celled.is_queued("cell_1", held)
        assert await celled.watermark("cell_2", other) > transaction
        assert not await celled.is_queued("cell_2", other)

        await prepared.commit()
        await celled.services[RollupWorker].roll_up(held.organization)

        assert await celled.watermark("cell_1", held) > transaction
        assert not await celled.is_queued("cell_1", held)
        assert await requests_in_report(held) == 2


class TestOrganizations:
    async def test_move_between_workers_while_requests_and_rollups_run(self, celled: Cluster) -> None:
        moving, other = await celled.tenant_in("cell_1"), await celled.tenant_in("cell_2")
        clients = Clients(moving, other)

        async def move() -> None:
            await clients.until_each(3)
            for cell in ("cell_2", "public", "cell_1"):
                await celled.move(moving, cell)
                await celled.roll_up()
            await clients.until_each(3)

        await clients.run_during(move)

        assert set(clients.statuses[other.organization]) == {200}
        for tenant in (moving, other):
            assert await requests_in_report(tenant) == clients.sent[tenant.organization] + 1
        for cell in ("public", "cell_2"):
            assert await celled.count(cell, "usage_event", moving) == 0

    async def test_do_not_leave_rows_that_a_worker_has_prepared(
        self, celled: Cluster, cluster: CitusCluster
    ) -> None:
        tenant = await celled.tenant_in("cell_1")
        prepared = PreparedTransaction(celled, (await celled.worker(cluster, "cell_1")).superuser)
        await prepared.prepare()
        with pytest.raises(MoveRefused, match="prepared"):
            await celled.move(tenant, "cell_2")
        assert await celled.cell_of(tenant) == "cell_1"

        await prepared.commit()
        await celled.move(tenant, "cell_2")

        assert await requests_in_report(tenant) == 1
