"""A Citus cluster: a coordinator and two workers.

The one in BYOK_TEST_CITUS_URL (a superuser's URL of the coordinator, whose workers have been added in the database of the
URL), or else one on loopback if Debian's PostgreSQL has the extension.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
import sqlalchemy as sa

from app.database.connections import connect
from app.database.migrations import migrate
from app.database.roles import OWNER, SERVICE_LOGIN
from tests.support.database.bare_servers import BareServer, bare_server, installations
from tests.support.database.own_database import PASSWORD, DatabaseRoles, configured_server, create_database

WORKERS = 2
_EXTENSION = Path("share") / "postgresql" / "15" / "extension" / "citus.control"
_WORKERS_OF = "SELECT nodename, nodeport FROM pg_dist_node WHERE groupid <> 0 ORDER BY groupid"
_SETTINGS = """
shared_preload_libraries = 'citus'
wal_level = logical
max_connections = 120
max_prepared_transactions = 50
citus.node_conninfo = 'sslmode=disable'
citus.propagate_set_commands = 'local'
citus.recover_2pc_interval = -1
"""
# The driver looks types up in the catalog, which takes seconds while Citus hides the shards in it. The service recognizes some
# errors of a lost worker by their English text.
_SETTINGS_OF_LOGINS = ("citus.override_table_visibility = off", "lc_messages = 'C'")


def citus_programs() -> Path | None:
    """The programs of a PostgreSQL that has the extension."""
    programs = installations().get("Debian 15")
    return programs if programs is not None and (Path("/usr") / _EXTENSION).exists() else None


def is_citus_available() -> bool:
    return "BYOK_TEST_CITUS_URL" in os.environ or citus_programs() is not None


needs_citus = pytest.mark.skipif(
    not is_citus_available(), reason="no PostgreSQL here has the extension citus"
)
# For tests that kill nodes.
needs_own_citus = pytest.mark.skipif(
    "BYOK_TEST_CITUS_URL" in os.environ or citus_programs() is None,
    reason="no PostgreSQL here has the extension citus, or BYOK_TEST_CITUS_URL names servers that tests cannot kill",
)


def availability_message() -> str:
    """A line for the summary of a test run."""
    if is_citus_available():
        return "Citus: tests also ran on a cluster."
    return "Citus: skipped, because no PostgreSQL here has the extension. Set BYOK_TEST_CITUS_URL, or install it."


@dataclass(frozen=True, kw_only=True)
class CitusCluster:
    """A coordinator with its workers. `servers` has those that this process started, the coordinator first."""

    coordinator: DatabaseRoles
    nodes: tuple[sa.URL, ...]  # superusers of all nodes, the coordinator first
    servers: tuple[BareServer, ...] = field(default=())


@contextmanager
def citus_cluster() -> Iterator[CitusCluster]:
    """The cluster of BYOK_TEST_CITUS_URL, or one on loopback; without a database of the service."""
    if (configured := os.environ.get("BYOK_TEST_CITUS_URL")) is not None:
        yield _configured_cluster(configured)
        return
    programs = citus_programs()
    assert programs is not None, "Citus is not installed"
    with ExitStack() as stack:
        servers = tuple(
            stack.enter_context(bare_server(programs, password=PASSWORD, settings=_SETTINGS))
            for _ in range(WORKERS + 1)
        )
        nodes = tuple(server.superuser for server in servers)
        yield CitusCluster(coordinator=_roles_of(nodes[0]), nodes=nodes, servers=servers)


def _configured_cluster(url: str) -> CitusCluster:
    coordinator = configured_server(url).superuser
    with ThreadPoolExecutor(1) as thread:  # a loop may be running in this one
        workers = thread.submit(lambda: asyncio.run(run_on(coordinator, _WORKERS_OF))).result()
    nodes = (coordinator, *(coordinator.set(host=row["nodename"], port=row["nodeport"]) for row in workers))
    return CitusCluster(coordinator=_roles_of(coordinator), nodes=nodes)


def _roles_of(node: sa.URL) -> DatabaseRoles:
    return configured_server(node.render_as_string(hide_password=False))


@asynccontextmanager
async def citus_database(
    cluster: CitusCluster, *, migrates_first: bool = False, has_workers: bool = True
) -> AsyncIterator[DatabaseRoles]:
    """Create a database on all nodes with `roles.sql`, and make a cluster of it. It goes with its servers.

    Nodes log in to each other as the role that runs a statement: the service's login, or the owner in its functions.
    Their passwords are in `pg_dist_authinfo`, which only superusers may read.

    Args:
        cluster: the servers.
        migrates_first: create the tables before the extension.
        has_workers: let the coordinator know of the workers.
    """
    name = f"byok_test_{uuid4().hex[:12]}"
    coordinator, *workers = (node.set(database=name) for node in cluster.nodes)
    for node in (coordinator, *workers):
        await create_database(_roles_of(node), name)
    if migrates_first:
        await migrate(cluster.coordinator.of_database(name).owner)
    for node in (coordinator, *workers):
        await run_on(
            node,
            "CREATE EXTENSION citus",
            *(
                f"INSERT INTO pg_dist_authinfo VALUES ({of}, '{role}', 'password={PASSWORD}')"
                for role in (coordinator.username, OWNER, SERVICE_LOGIN)
                for of in (0, -1)  # the other nodes, and connections of a node to itself
            ),
        )
    await run_on(
        coordinator,
        *(f"ALTER ROLE {role} SET {it}" for role in (SERVICE_LOGIN, OWNER) for it in _SETTINGS_OF_LOGINS),
        f"SELECT citus_set_coordinator_host('{coordinator.host}', {coordinator.port})",
        *(f"SELECT citus_add_node('{it.host}', {it.port})" for it in (workers if has_workers else ())),
    )
    yield cluster.coordinator.of_database(name)


async def run_on(node: sa.URL, *statements: str) -> list[asyncpg.Record]:
    """Run statements one by one, each in its own transaction; returns the rows of the last."""
    connection = await connect(node)
    rows: list[asyncpg.Record] = []
    try:
        for statement in statements:
            rows = await connection.fetch(statement)
    finally:
        await connection.close()
    return rows
