"""The nodes of a Citus cluster: which there are, which cells are on them, and what they lack before a cell can be on a worker.

Read with the login that is asked, because the nodes log in to each other as the role that runs a statement.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import asyncpg
import sqlalchemy as sa

from app.database.cells.directory import ARE_ON_CITUS
from app.database.connections import SERVICE_ROLE, read_only_transaction

_Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

# Each node describes itself. One that cannot be reached, or to which this login cannot log in, has no description.
_NODES = """
    SELECT n.nodename || ':' || n.nodeport AS address, n.nodename AS host, n.nodeport AS port,
        n.groupid = 0 AS is_coordinator, n.isactive AS is_active, CASE WHEN d.success THEN d.result END AS description
    FROM pg_dist_node n LEFT JOIN run_command_on_all_nodes($1) d USING (nodeid)
    WHERE n.noderole = 'primary' ORDER BY n.groupid
"""
_DESCRIBE = """
    SELECT json_build_object('postgresql', split_part(current_setting('server_version'), ' ', 1),
        'citus', split_part(citus_version(), ' ', 2), 'wal_level', current_setting('wal_level'),
        'roles', (SELECT json_agg(rolname) FROM pg_roles WHERE rolname IN ({roles})))
"""
# All tables of a cell on a worker are on the same one. Citus may also choose the coordinator, if that may have shards.
_PLACES = """
    SELECT c.name, (
        SELECT n.nodename || ':' || n.nodeport FROM pg_dist_partition p
        JOIN pg_dist_shard s ON s.logicalrelid = p.logicalrelid
        JOIN pg_dist_placement l ON l.shardid = s.shardid
        JOIN pg_dist_node n ON n.groupid = l.groupid AND n.noderole = 'primary' AND n.groupid <> 0
        WHERE p.logicalrelid = to_regclass(c.name || '.alembic_version') LIMIT 1) AS address
    FROM cells.cell c
"""
# From each active node to each. The result is NULL if the server of this login itself cannot log in to the first.
_CONNECTIONS = """
    SELECT DISTINCT CASE WHEN c.result IS NULL THEN here.address ELSE c.from_nodename || ':' || c.from_nodeport END AS source,
        CASE WHEN c.result IS NULL THEN c.from_nodename || ':' || c.from_nodeport
        ELSE c.to_nodename || ':' || c.to_nodeport END AS target
    FROM citus_check_cluster_node_health() c CROSS JOIN (
        SELECT n.nodename || ':' || n.nodeport AS address FROM pg_dist_node n JOIN pg_dist_local_group l USING (groupid)
        WHERE n.noderole = 'primary') AS here
    WHERE NOT coalesce(c.result, false) ORDER BY 2, 1
"""
_SETTINGS = """
    SELECT current_user AS name, current_setting('citus.propagate_set_commands', true) AS propagates,
        current_setting('citus.override_table_visibility', true) AS hides_shards
"""
_PREPARED = (
    "SELECT string_agg(gid, ' ') FROM pg_prepared_xacts WHERE database = current_database()"
    " AND starts_with(gid, 'citus_')"
)
# The URL may name another role, or none.
_SESSION_ROLE = "SELECT session_user"
_LOOKS = 30
_SECONDS_BETWEEN_LOOKS = 0.1


class WorkersNotReady(Exception):
    """A worker cannot be reached, or has not committed yet what it had prepared. The message shows which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A server of the cluster. Without a description, the login that asked cannot use it."""

    address: str  # host:port
    host: str
    port: int
    is_coordinator: bool
    is_active: bool
    description: Mapping[str, Any] | None

    @property
    def name(self) -> str:
        return f"{'coordinator' if self.is_coordinator else 'worker'} {self.address}"

    @property
    def versions(self) -> str:
        """The versions of PostgreSQL and Citus, or why they are not known."""
        if not self.is_active:
            return "not active"
        if self.description is None:
            return "cannot be used"
        return f"PostgreSQL {self.description['postgresql']}, Citus {self.description['citus']}"

    @property
    def roles(self) -> Sequence[str]:
        return () if self.description is None else self.description["roles"] or ()


async def read_nodes(connection: _Connection, *roles: str) -> Sequence[Node]:
    """All nodes, the coordinator first. Their descriptions name which of these roles exist. Without Citus, none."""
    if not await connection.fetchval(ARE_ON_CITUS):
        return ()
    quoted = ", ".join(_quoted(role) for role in (SERVICE_ROLE, *roles))
    return [
        Node(**(dict(row) | {"description": row["description"] and json.loads(row["description"])}))
        for row in await connection.fetch(_NODES, _DESCRIBE.format(roles=quoted))
    ]


async def cell_addresses(connection: _Connection) -> Mapping[str, str | None]:
    """The node that each cell is on, by its name. None: on the server of this login, the coordinator."""
    if not await connection.fetchval(ARE_ON_CITUS):
        return {}
    return {row["name"]: row["address"] for row in await connection.fetch(_PLACES)}


async def missing_for_workers(owner: sa.URL, service: sa.URL) -> Sequence[str]:
    """What has to change before a cell can be on a worker: one sentence for each, with its remedy.

    Args:
        owner: the owner's login.
        service: the service's login.
    """
    async with read_only_transaction(service) as connection:
        service_role = await connection.fetchval(_SESSION_ROLE)
    async with read_only_transaction(owner) as connection:
        roles = (await connection.fetchval(_SESSION_ROLE), service_role, SERVICE_ROLE)
        nodes = await read_nodes(connection, *roles)
        missing = [*_missing_nodes(nodes), *_missing_roles(nodes, roles), *unfit_logs(nodes)]
        missing += await missing_of_login(connection)
    if missing:
        return missing
    async with read_only_transaction(service) as connection:
        return await missing_of_login(connection)


async def missing_of_login(connection: _Connection) -> Sequence[str]:
    """What this login lacks to use cells on workers: one sentence for each, with its remedy."""
    found = await connection.fetchrow(_SETTINGS)
    assert found is not None
    missing = []
    if found["propagates"] != "local":
        missing.append(
            f"citus.propagate_set_commands has to be local for {found['name']}, or the workers do not know the organization."
            " As a superuser on the coordinator, run ALTER SYSTEM SET citus.propagate_set_commands = 'local', then SELECT"
            " pg_reload_conf()."
        )
    if found["hides_shards"] != "off":
        missing.append(
            f"citus.override_table_visibility has to be off for {found['name']}, or each connection begins with seconds of"
            f" look-ups. As a superuser on the coordinator, run ALTER ROLE {found['name']} SET"
            " citus.override_table_visibility = off."
        )
    sources: dict[str, list[str]] = {}
    for row in await connection.fetch(_CONNECTIONS):
        sources.setdefault(row["target"], []).append(row["source"])
    missing += [
        f"{found['name']} cannot log in to the node {target} from {', '.join(those)}. Check that it runs and has the role"
        f" with the coordinator's password (docs/deploy/roles.sql); then, as a superuser on {', '.join(those)}, insert the"
        " password into pg_dist_authinfo for the node ids 0 and -1."
        for target, those in sources.items()
    ]
    return missing


def unfit_logs(nodes: Sequence[Node]) -> Sequence[str]:
    """Which nodes cannot give a cell to another one while it is used, and the remedy."""
    unfit = [
        node.address for node in nodes if node.description and node.description["wal_level"] != "logical"
    ]
    if not unfit:
        return ()
    sentence = (
        f"wal_level has to be logical on {', '.join(unfit)}, or a cell cannot move while it is used. As a superuser there,"
        " run ALTER SYSTEM SET wal_level = 'logical', and restart the server."
    )
    return [sentence]


async def wait_for_workers(connection: _Connection) -> None:
    """Wait until the workers have committed what they had prepared. Such rows and tables are not visible yet.

    Raises:
        WorkersNotReady
    """
    if not await connection.fetchval(ARE_ON_CITUS):
        return
    waiting = await _prepared(connection)
    for _ in range(_LOOKS):
        if not waiting:
            return
        await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
        waiting &= await _prepared(connection)
    raise WorkersNotReady(
        "A worker of Citus has transactions that it prepared and has not committed. Citus commits them within"
        " citus.recover_2pc_interval; repeat the command then"
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


async def _prepared(connection: _Connection) -> set[str]:
    """The transactions that any worker of Citus has prepared."""
    nodes = await connection.fetch("SELECT success, result FROM run_command_on_workers($1)", _PREPARED)
    if not all(node["success"] for node in nodes):
        raise WorkersNotReady("A worker of Citus cannot be reached. Nothing was changed")
    return {gid for node in nodes for gid in node["result"].split()}


def _missing_nodes(nodes: Sequence[Node]) -> Sequence[str]:
    missing = [
        f"The node {node.address} is not active. As a superuser on the coordinator, run SELECT"
        f" citus_activate_node('{node.host}', {node.port})."
        for node in nodes
        if not node.is_active
    ]
    if all(not node.is_coordinator for node in nodes):
        missing.append(
            "The workers do not know the coordinator. As a superuser there, run SELECT citus_set_coordinator_host('HOST',"
            " PORT), with a host that the workers reach."
        )
    if all(node.is_coordinator for node in nodes):
        missing.append(
            "Citus has no worker. As a superuser on the coordinator, run SELECT citus_add_node('HOST', PORT) for each."
        )
    return missing


def _missing_roles(nodes: Sequence[Node], roles: Sequence[str]) -> Sequence[str]:
    found = {node.address: [role for role in roles if role not in node.roles] for node in nodes if node.roles}
    return [
        f"The node {address} does not have the roles {', '.join(lacking)}. Run docs/deploy/roles.sql there, with the"
        " passwords of the coordinator."
        for address, lacking in found.items()
        if lacking
    ]
