"""Databases with cells."""

from app.database.migrations import create_cell
from tests.support.database.own_database import DatabaseRoles, run_as_superuser


async def live_in_cell(database: DatabaseRoles, name: str, *, is_distributed: bool = False) -> None:
    """Add a cell where all new organizations live. The superuser of the database sees its tables."""
    await create_cell(database.owner, name, is_distributed=is_distributed)
    await run_as_superuser(
        database,
        f"UPDATE cells.cell SET takes_new = (name = '{name}')",
        f"ALTER ROLE {database.superuser.username} IN DATABASE {database.name} SET search_path = {name}, public",
    )
