"""What a transaction in a cell on a worker of Citus sends to the worker, and how it commits.

Skipped where PostgreSQL does not have the extension.
"""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from app.database.cells.directory import CellDirectory
from app.database.connections import connect
from app.database.engine import Database
from app.settings.settings import Settings
from tests.support.database.celled import ingest
from tests.support.database.celled_on_citus import Cluster, celled_on_citus
from tests.support.database.citus import CitusCluster, needs_citus, run_on
from tests.support.database.own_database import run_as_superuser
from tests.support.requests.usage_events import event
from tests.support.tenant import MakeToken, Tenant

pytestmark = [pytest.mark.slow, needs_citus]

_FEW = 4
# Citus removes them only when it is asked, because it is configured so here.
_TWO_PHASE_COMMITS = "SELECT count(*) AS n FROM pg_dist_transaction"
_NEXT_NUMBER = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::int8 AS n"


@pytest.fixture
async def celled(cluster: CitusCluster, settings: Settings, make_token: MakeToken) -> AsyncIterator[Cluster]:
    async with celled_on_citus(cluster, settings, make_token) as celled:
        yield celled


async def add_limits(tenant: Tenant, number: int) -> None:
    for place in range(number):
        limit = {
            "name": f"Budget {place}",
            "amount": {"amount": "10", "currency": "USD"},
            "period": ("day", "month", "total")[place % 3],
        }
        found = await tenant.post(f"{tenant.path}/spend-limits", json=limit)
        assert found.status_code == 201, found.text


async def two_phase_commits(celled: Cluster) -> int:
    (row,) = await celled.rows(_TWO_PHASE_COMMITS)
    return int(row["n"])


class TestEvents:
    @pytest.mark.parametrize("number", [1, _FEW])
    async def test_a_few_take_no_two_phase_commit(self, celled: Cluster, number: int) -> None:
        tenant = await celled.tenant_in("cell_1")
        await add_limits(tenant, 3)
        before = await two_phase_commits(celled)

        accepted = await ingest(tenant, *(event(provider_request_id=f"req_{at}") for at in range(number)))

        assert accepted.json()["accepted"] == number
        assert await two_phase_commits(celled) == before
        for table, rows in {"usage_event": number, "usage_request_key": number, "usage_object": 1}.items():
            before_it = 0 if table == "usage_request_key" else 1
            assert await celled.count("cell_1", table, tenant) == before_it + rows
        counters = await celled.rows(
            "SELECT settled_managed > 0 AS has_spend FROM cell_1.spend_counter WHERE organization_id = $1",
            tenant.organization,
        )
        assert [row["has_spend"] for row in counters] == [True] * 3

    async def test_many_take_one(self, celled: Cluster) -> None:
        tenant = await celled.tenant_in("cell_1")
        before = await two_phase_commits(celled)
        assert (await ingest(tenant, *(event() for _ in range(_FEW + 1)))).json()["accepted"] == _FEW + 1
        assert await two_phase_commits(celled) == before + 1

    @pytest.mark.parametrize("number", [1, _FEW + 1])
    async def test_have_the_transaction_number_of_the_coordinator(
        self, celled: Cluster, cluster: CitusCluster, number: int
    ) -> None:
        """The watermark of the rollups is a number of the coordinator too."""
        tenant = await celled.tenant_in("cell_1")
        place = await celled.place("cell_1")
        (first,) = await celled.rows(_NEXT_NUMBER)

        assert (await ingest(tenant, *(event() for _ in range(number)))).json()["accepted"] == number

        (end,) = await celled.rows(_NEXT_NUMBER)
        for table in ("usage_event", "usage_object"):
            found = await celled.rows(
                f"SELECT DISTINCT ingest_xid FROM cell_1.{table} WHERE organization_id = $1 AND ingest_xid >= $2",
                tenant.organization,
                first["n"],
            )
            assert [first["n"] <= row["ingest_xid"] < end["n"] for row in found] == [True]
        worker = next(node for node in cluster.nodes if node.port == place["port"])
        (other,) = await run_on(worker.set(database=celled.roles.name), _NEXT_NUMBER)
        assert not first["n"] <= other["n"] <= end["n"], "the numbers of both nodes are the same by chance"

    async def test_count_in_more_limits_than_a_few(self, celled: Cluster) -> None:
        tenant = await celled.tenant_in("cell_1")
        await add_limits(tenant, _FEW + 1)
        assert (await ingest(tenant, event())).json()["accepted"] == 1
        counters = await celled.rows(
            "SELECT DISTINCT settled_managed FROM cell_1.spend_counter WHERE organization_id = $1",
            tenant.organization,
        )
        assert len(counters) == 1


class TestBeginning:
    async def test_lists_a_new_organization_before_a_transaction_writes(self, celled: Cluster) -> None:
        """The worker commits before the coordinator, which may be lost in between."""
        await run_as_superuser(celled.roles, "UPDATE cells.cell SET takes_new = (name = 'cell_1')")
        tenant, database = celled.tenant(), Database(celled.roles.login)
        async with database.session(tenant.organization, read_only=True):
            pass
        assert await celled.cell_of(tenant) is None

        async with database.session(tenant.organization):
            pass  # it is rolled back

        assert await celled.cell_of(tenant) == "cell_1"
        await database.close()

    async def test_lets_citus_repeat_only_the_organization_and_the_search_path(self, celled: Cluster) -> None:
        tenant = await celled.tenant_in("cell_1")
        directory = CellDirectory(is_on_citus=True)
        refusal = asyncpg.PostgresError()
        refusal.sqlstate, refusal.detail = "BY001", "cell_1"
        assert directory.learn(tenant.organization, refusal)
        messages: list[str] = []
        connection = await connect(celled.roles.service)
        connection.add_log_listener(lambda _connection, message: messages.append(str(message)))
        await connection.execute("SET citus.log_remote_commands = on; SET client_min_messages = log")

        await connection.execute(f"BEGIN{directory.entry(tenant.organization)}")
        found = await connection.fetchval("SELECT count(*) FROM usage_event")
        found_on_worker = await connection.fetchval(
            "SELECT to_regclass('usage_event_key') IS NOT NULL FROM usage_event"
        )
        await connection.execute("COMMIT")
        await connection.close()

        assert found == 1
        assert found_on_worker
        (begin,) = [it for it in messages if "assign_distributed_transaction_id" in it]
        assert f"SET LOCAL byok.org = '{tenant.organization}';" in begin
        assert begin.count("byok.org") == begin.count("search_path") == 1
        assert "cells.enter" not in begin
