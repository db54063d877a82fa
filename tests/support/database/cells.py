"""Databases with cells."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager

from app.database.cells.directory import HOME, in_cell
from app.database.migrations import create_cell, migrate
from tests.support.database.citus import citus_cluster, citus_database
from tests.support.database.own_database import DatabaseRoles, copied_database, run_as_superuser

CELL = "cell_1"
_entered = ExitStack()


def schema_of_run() -> str:
    """The schema with the rows of all new organizations of this run's database."""
    return CELL if os.environ.get("BYOK_TEST_CELLS") else HOME


def enter_cell() -> None:
    """Let the transactions without an organization use the cell of the tests, until the process ends."""
    _entered.enter_context(in_cell(CELL))


@asynccontextmanager
async def database_of_run(
    template: DatabaseRoles, *, cells: Sequence[str] = (CELL,)
) -> AsyncIterator[DatabaseRoles]:
    """A new database, a copy of this one.

    With BYOK_TEST_CELLS=1 all new organizations live in the cells, and with BYOK_TEST_CELLS=citus these are on workers of a
    cluster.
    """
    kind = os.environ.get("BYOK_TEST_CELLS")
    async with AsyncExitStack() as stack:
        if kind == "citus":
            cluster = stack.enter_context(citus_cluster())
            database = await stack.enter_async_context(citus_database(cluster))
            await migrate(database.owner)
        else:
            database = await stack.enter_async_context(copied_database(template))
        if kind:
            await live_in_cells(database, cells, is_distributed=kind == "citus")
        yield database


async def live_in_cells(database: DatabaseRoles, names: Sequence[str], *, is_distributed: bool) -> None:
    """Add cells where all new organizations live. The superuser of the database sees the tables of the first of them."""
    for name in names:
        await create_cell(database.owner, name, is_distributed=is_distributed)
    await run_as_superuser(
        database,
        "UPDATE cells.cell SET takes_new = (name <> 'public')",
        f"ALTER ROLE {database.superuser.username} IN DATABASE {database.name} SET search_path = {names[0]}, public",
    )
