"""The commands for cells and `byok doctor` on a Citus cluster: what they need, what they say, and what a crash leaves.

Skipped where PostgreSQL does not have the extension.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from app.cell_commands import Cell, add_cell, delete, list_cells
from app.composition.database_access import DatabaseAccess
from app.composition.scaling_checks import ScalingResult, check_nodes
from app.database.migrations import migrate
from app.secret_maintenance.progress import OperationRefused
from app.settings.environment import SettingsRefused
from app.settings.settings import Settings
from app.usage_reports.rollup_worker import RollupWorker
from tests.support.database.bare_servers import BareServer
from tests.support.database.celled import ingest
from tests.support.database.celled_on_citus import Cluster, application_on, celled_on_citus
from tests.support.database.citus import CitusCluster, citus_database, needs_own_citus, run_on
from tests.support.database.own_database import DatabaseRoles
from tests.support.polling import until
from tests.support.processes.commands import byok
from tests.support.requests.usage_events import event
from tests.support.tenant import MakeToken

pytestmark = [pytest.mark.slow, needs_own_citus]

_SCHEMAS = "SELECT FROM pg_namespace WHERE nspname = 'cell_1'"
_RELOAD = "SELECT pg_reload_conf()"


@pytest.fixture
async def roles(cluster: CitusCluster) -> AsyncIterator[DatabaseRoles]:
    async with citus_database(cluster) as roles:
        await migrate(roles.owner)
        yield roles


@pytest.fixture
async def celled(cluster: CitusCluster, settings: Settings, make_token: MakeToken) -> AsyncIterator[Cluster]:
    async with celled_on_citus(cluster, settings, make_token) as celled:
        yield celled


def access_to(roles: DatabaseRoles) -> DatabaseAccess:
    return DatabaseAccess(owner=roles.owner, login=roles.login)


def workers_of(cluster: CitusCluster) -> Sequence[str]:
    return [f"{node.host}:{node.port}" for node in cluster.nodes[1:]]


async def cells_of(settings: Settings, roles: DatabaseRoles) -> Sequence[str]:
    return [cell.name for cell in await list_cells(settings, access_to(roles))]


async def nodes_found(roles: DatabaseRoles) -> Sequence[ScalingResult]:
    return [result async for result in check_nodes(roles.login)]


async def with_schema(cluster: CitusCluster, roles: DatabaseRoles) -> Sequence[sa.URL]:
    """The nodes that have the schema of the cell."""
    nodes = [node.set(database=roles.name) for node in cluster.nodes]
    return [node for node in nodes if await run_on(node, _SCHEMAS)]


@asynccontextmanager
async def standby_missing(*servers: BareServer) -> AsyncIterator[None]:
    """Let each COMMIT and PREPARE TRANSACTION of these servers wait for a standby that does not exist."""
    try:
        for server in servers:
            await run_on(server.superuser, "ALTER SYSTEM SET synchronous_standby_names = 'missing'", _RELOAD)
        yield
    finally:
        for server in servers:
            await run_on(server.superuser, "ALTER SYSTEM RESET synchronous_standby_names", _RELOAD)


async def until_runs(node: sa.URL, query: str, condition: str = "true") -> None:
    """Wait until a session of the owner runs such a statement."""
    await until(
        lambda: run_on(
            node,
            f"SELECT FROM pg_stat_activity WHERE usename = 'byok_owner' AND query LIKE '{query}' AND {condition}",
        ),
        bool,
        timeout_seconds=60,
    )


class TestAdd:
    async def test_puts_a_cell_on_a_worker_or_leaves_it_on_the_coordinator(
        self, cluster: CitusCluster, roles: DatabaseRoles, tmp_path: Path
    ) -> None:
        """As processes, as an operator runs them."""
        added = await byok("cells", "add", "cell_1", cwd=tmp_path, **roles.settings)
        assert added.code == 0, added.stderr
        (worker,) = [it for it in workers_of(cluster) if f"Added the cell cell_1 on {it}." in added.stdout]
        left = await byok("cells", "add", "cell_2", "--on-coordinator", cwd=tmp_path, **roles.settings)
        assert left.stdout.startswith("Added the cell cell_2. Next:")
        repeated = await byok("cells", "add", "cell_1", cwd=tmp_path, **roles.settings)
        assert "There is such a cell already" in repeated.stderr

        listed = await byok("cells", "list", cwd=tmp_path, **roles.settings)

        coordinator = cluster.nodes[0]
        assert listed.stdout.splitlines()[:3] == [
            "public: 0 organizations, on the coordinator",
            f"cell_1: 0 organizations, on {worker}",
            "cell_2: 0 organizations, on the coordinator",
        ]
        names = [line.partition(": PostgreSQL 15.")[0] for line in listed.stdout.splitlines()[3:]]
        assert names == [
            f"coordinator {coordinator.host}:{coordinator.port}",
            *(f"worker {it}" for it in workers_of(cluster)),
        ]
        assert listed.stdout.count(", Citus 13.") == len(cluster.nodes)

    async def test_works_if_the_extension_is_newer_than_the_tables(
        self, cluster: CitusCluster, settings: Settings, make_token: MakeToken
    ) -> None:
        async with AsyncExitStack() as stack:
            roles = await stack.enter_async_context(citus_database(cluster, migrates_first=True))
            assert await add_cell(settings, access_to(roles), "cell_1") in workers_of(cluster)
            celled = await stack.enter_async_context(application_on(roles, settings, make_token))

            tenant = await celled.tenant_in("cell_1")
            await celled.services[RollupWorker].roll_up(tenant.organization)

            assert await celled.watermark("cell_1", tenant) > 0

    async def test_needs_workers(self, cluster: CitusCluster, settings: Settings) -> None:
        async with citus_database(cluster, has_workers=False) as roles:
            await migrate(roles.owner)
            with pytest.raises(OperationRefused, match=r"no worker.*citus_add_node"):
                await add_cell(settings, access_to(roles), "cell_1")
            assert await add_cell(settings, access_to(roles), "cell_1", on_coordinator=True) is None

    async def test_needs_a_login_of_the_service(self, settings: Settings, roles: DatabaseRoles) -> None:
        login = replace(roles.login, set_role=True)
        with pytest.raises(SettingsRefused, match="cannot log in to the workers"):
            await add_cell(settings, DatabaseAccess(owner=roles.owner, login=login), "cell_1")

    async def test_says_what_to_change_before(
        self, cluster: CitusCluster, settings: Settings, roles: DatabaseRoles
    ) -> None:
        coordinator, worker, _ = (node.set(database=roles.name) for node in cluster.nodes)
        address = workers_of(cluster)[0]
        login = f"ALTER ROLE byok_app IN DATABASE {roles.name}"
        forget = "DELETE FROM pg_dist_authinfo WHERE rolename = '{}'"
        remember = "INSERT INTO pg_dist_authinfo SELECT nodeid, '{}', 'password={}' FROM (VALUES (0), (-1)) AS n (nodeid)"
        broken = [
            (coordinator, f"{login} SET citus.propagate_set_commands = 'none'", f"{login} RESET ALL"),
            (coordinator, f"{login} SET citus.override_table_visibility = on", f"{login} RESET ALL"),
            (
                worker,
                "ALTER ROLE byok_app RENAME TO byok_absent",
                "ALTER ROLE byok_absent RENAME TO byok_app",
            ),
            *(
                (coordinator, forget.format(role), remember.format(role, roles.owner.password))
                for role in ("byok_app", "byok_owner")
            ),
            (
                coordinator,
                f"SELECT citus_disable_node('{worker.host}', {worker.port}, synchronous := true)",
                f"SELECT citus_activate_node('{worker.host}', {worker.port})",
            ),
        ]
        refusals = []
        for node, change, undo in broken:
            await run_on(node, change)
            with pytest.raises(OperationRefused) as refused:
                await add_cell(settings, access_to(roles), "cell_1")
            await run_on(node, undo)
            refusals.append(str(refused.value).splitlines())

        beginnings = [
            "citus.propagate_set_commands has to be local for byok_app",
            "citus.override_table_visibility has to be off for byok_app",
            f"The node {address} does not have the roles byok_app. Run docs/deploy/roles.sql",
            f"byok_app cannot log in to the node {address} from",
            f"byok_owner cannot log in to the node {address} from",
            f"The node {address} is not active. As a superuser on the coordinator, run SELECT citus_activate_node(",
        ]
        found = [
            any(line.startswith(it) for line in lines) for it, lines in zip(beginnings, refusals, strict=True)
        ]
        assert found == [True] * len(beginnings), refusals
        assert {lines[-1] for lines in refusals} == {
            "Then run this command again, or add --on-coordinator to put the cell on the coordinator"
        }
        assert await with_schema(cluster, roles) == []
        assert await add_cell(settings, access_to(roles), "cell_1") in workers_of(cluster)

    async def test_may_be_repeated_after_a_crash_before_the_workers_have_prepared(
        self, cluster: CitusCluster, settings: Settings, roles: DatabaseRoles
    ) -> None:
        coordinator = cluster.servers[0]
        adding = asyncio.create_task(add_cell(settings, access_to(roles), "cell_1"))
        await until_runs(roles.superuser, "%citus_schema_distribute%")
        await asyncio.to_thread(coordinator.kill)
        with pytest.raises(SettingsRefused):
            await adding
        await asyncio.to_thread(coordinator.start)

        assert await cells_of(settings, roles) == ["public"]
        assert await add_cell(settings, access_to(roles), "cell_1") in workers_of(cluster)

    async def test_may_be_repeated_after_a_crash_when_the_workers_have_prepared(
        self, cluster: CitusCluster, settings: Settings, roles: DatabaseRoles
    ) -> None:
        coordinator, *workers = cluster.servers
        worker = workers[0].superuser.set(database=roles.name)
        async with standby_missing(*workers):
            adding = asyncio.create_task(add_cell(settings, access_to(roles), "cell_1"))
            await until_runs(worker, "PREPARE TRANSACTION%", "wait_event = 'SyncRep'")
            await asyncio.to_thread(coordinator.kill)
            with pytest.raises(SettingsRefused):
                await adding
            await asyncio.to_thread(coordinator.start)

        assert await cells_of(settings, roles) == ["public"]
        with pytest.raises(OperationRefused, match="prepared and has not committed"):
            await add_cell(settings, access_to(roles), "cell_1")
        # Citus does so by itself, by default within a minute.
        await run_on(roles.superuser, "SELECT recover_prepared_transactions()")

        assert await with_schema(cluster, roles) == []
        assert await add_cell(settings, access_to(roles), "cell_1") in workers_of(cluster)


class TestDelete:
    async def test_removes_a_cell_from_all_nodes(
        self, cluster: CitusCluster, celled: Cluster, settings: Settings
    ) -> None:
        tenant = await celled.tenant_in("cell_1")
        with pytest.raises(OperationRefused, match=f"The organization {tenant.organization} lives in"):
            await delete(settings, access_to(celled.roles), "cell_1")
        assert len(await with_schema(cluster, celled.roles)) == len(cluster.nodes)
        await celled.move(tenant, "cell_2")

        await delete(settings, access_to(celled.roles), "cell_1")

        assert await cells_of(settings, celled.roles) == ["public", "cell_2"]
        assert await with_schema(cluster, celled.roles) == []
        assert (await ingest(tenant, event())).status_code == 200

    async def test_is_refused_while_a_stopped_move_has_left_rows(
        self, celled: Cluster, settings: Settings
    ) -> None:
        tenant = await celled.tenant_in("cell_1")
        await celled.move(tenant, "cell_2")
        await run_on(
            celled.roles.superuser, "INSERT INTO cell_1.usage_event_key SELECT * FROM cell_2.usage_event_key"
        )
        with pytest.raises(OperationRefused, match=f"byok cells move {tenant.organization}"):
            await delete(settings, access_to(celled.roles), "cell_1")

        await celled.move(tenant, "cell_2")
        await delete(settings, access_to(celled.roles), "cell_1")


class TestDoctor:
    async def test_shows_the_nodes_their_versions_and_cells(
        self, cluster: CitusCluster, celled: Cluster
    ) -> None:
        found = await nodes_found(celled.roles)
        assert [result.level for result in found] == ["ok"] * len(cluster.nodes)
        assert "cells: public" in found[0].text
        for result in found[1:]:
            assert ", Citus 13." in result.text
        cells = {result.text.partition("cells: ")[2] for result in found[1:]}
        assert cells == {"cell_1", "cell_2"}

    async def test_says_what_the_login_lacks(self, celled: Cluster) -> None:
        login = f"ALTER ROLE byok_app IN DATABASE {celled.roles.name}"
        await run_on(celled.roles.superuser, f"{login} SET citus.propagate_set_commands = 'none'")
        assert [
            (result.level, result.text.partition(" has")[0])
            for result in (await nodes_found(celled.roles))[3:]
        ] == [("fail", "citus.propagate_set_commands")]

    async def test_says_that_a_worker_cannot_be_used(self, cluster: CitusCluster, celled: Cluster) -> None:
        worker = await celled.worker(cluster, "cell_1")
        await asyncio.to_thread(worker.kill)
        try:
            found = await nodes_found(celled.roles)
        finally:
            await asyncio.to_thread(worker.start)
        assert [result.text for result in found if "cannot be used; cells: cell_1" in result.text]
        assert [result.level for result in found if "byok_app cannot log in" in result.text] == ["fail"]


class TestList:
    async def test_shows_no_worker_without_citus(
        self, cell_access: DatabaseAccess, settings: Settings
    ) -> None:
        assert await add_cell(settings, cell_access, "cell_1") is None
        assert await list_cells(settings, cell_access) == [
            Cell(name="public", takes_new=True, organizations=0),
            Cell(name="cell_1", takes_new=True, organizations=0),
        ]
