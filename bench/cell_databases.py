"""The databases of the benchmarks of cells: without cells, with a cell, and with a cell on a worker of Citus.

The last one is a cluster of three nodes on loopback, if Citus for PostgreSQL 15 is on this machine.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from app.database.migrations import create_cell, migrate
from tests.support.database.bare_servers import BareServer, bare_server, installations
from tests.support.database.citus import citus_cluster, citus_database, citus_programs
from tests.support.database.own_database import (
    PASSWORD,
    DatabaseRoles,
    configured_server,
    create_database,
    run_as_superuser,
)

NANOSECONDS = 1e-9


@dataclass(frozen=True, kw_only=True)
class CellDatabase:
    """A database in which all new organizations live in one cell, and the servers that it is on."""

    name: str
    roles: DatabaseRoles
    nodes: Mapping[str, Sequence[BareServer]]

    def cpu_seconds(self) -> dict[str, float]:
        """The CPU time of each kind of node so far."""
        return {kind: sum(map(_cpu_seconds, servers)) for kind, servers in self.nodes.items()}


@asynccontextmanager
async def cell_databases() -> AsyncIterator[Sequence[CellDatabase]]:
    """Create the databases, each on its own servers. The first one has no cells."""
    async with AsyncExitStack() as stack:
        found = installations()
        programs = found.get("Debian 15") or found["wheel 18"]
        databases: list[CellDatabase] = []
        for name in ("without cells", "in a cell"):
            server = stack.enter_context(bare_server(programs, password=PASSWORD))
            logins = configured_server(server.superuser.render_as_string(hide_password=False))
            roles = await create_database(logins, "byok")
            await (_add_cell(roles, is_distributed=False) if databases else migrate(roles.owner))
            databases.append(CellDatabase(name=name, roles=roles, nodes={"server": [server]}))
        if citus_programs() is not None:
            cluster = stack.enter_context(citus_cluster())
            roles = await stack.enter_async_context(citus_database(cluster))
            await _add_cell(roles, is_distributed=True)
            coordinator, *workers = cluster.servers
            nodes = {"coordinator": [coordinator], "worker": workers}
            databases.append(CellDatabase(name="in a cell on a worker", roles=roles, nodes=nodes))
        yield databases


async def _add_cell(roles: DatabaseRoles, *, is_distributed: bool) -> None:
    await migrate(roles.owner)
    await create_cell(roles.owner, "cell_1", is_distributed=is_distributed)
    await run_as_superuser(roles, "UPDATE cells.cell SET takes_new = (name = 'cell_1')")


def _cpu_seconds(server: BareServer) -> float:
    """The seconds that the running processes took. The kernel's other counter has steps of 10 ms, more than a process takes here."""
    nanoseconds = 0
    for process in server.processes():
        try:
            nanoseconds += int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[0])
        except FileNotFoundError:
            continue
    return nanoseconds * NANOSECONDS
