"""Sessions that wait for a lock, on one server or on all nodes of Citus, where a cell's locks are on its worker."""

from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.database.rows import fetch

_WAITERS = "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
_IS_ON_CITUS = "SELECT to_regclass('pg_catalog.pg_dist_node') IS NOT NULL AS is_on_citus"
_ON_ALL_NODES = (
    f"SELECT sum(CAST(result AS integer)) AS n FROM run_command_on_all_nodes($run${_WAITERS}$run$)"
)


async def is_on_citus(superuser: AsyncEngine) -> bool:
    (row,) = await fetch(superuser, _IS_ON_CITUS)
    return bool(row["is_on_citus"])


async def lock_waiters(superuser: AsyncEngine) -> int:
    """How many sessions of this database wait for a lock."""
    (row,) = await fetch(superuser, _ON_ALL_NODES if await is_on_citus(superuser) else _WAITERS)
    return int(row["n"])
