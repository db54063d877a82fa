"""What the tests look up and alter in the database as its owner, past every policy."""

from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine


async def fetch(owner: AsyncEngine, statement: str, **values: Any) -> list[dict[str, Any]]:
    async with _at_once(owner).connect() as connection:
        found = await connection.execute(sa.text(statement), values)
        return [dict(row) for row in found.mappings()]


async def look(owner: AsyncEngine, *tables: str, organization_id: str) -> dict[str, list[dict[str, Any]]]:
    """All that one organization has in these tables, asked of the driver itself: it is done thousands of times."""
    async with _at_once(owner).connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        statement = "SELECT * FROM {} WHERE organization_id = $1"
        return {
            table: [dict(row) for row in await driver.fetch(statement.format(table), organization_id)]
            for table in tables
        }


async def change(owner: AsyncEngine, statement: str, **values: Any) -> int:
    """Returns how many rows were touched."""
    async with _at_once(owner).connect() as connection:
        return (await connection.execute(sa.text(statement), values)).rowcount


async def make_due(owner: AsyncEngine, organization_id: str) -> None:
    """Let the time pass after which the sweep takes up this organization's unfinished work, and keys retire."""
    await change(
        owner,
        "UPDATE credential_version SET retires_at = now() - interval '1 second'"
        " WHERE organization_id = :organization_id AND retires_at IS NOT NULL",
        organization_id=organization_id,
    )
    await change(
        owner,
        "UPDATE job_queue SET due_at = now() - interval '1 second' WHERE organization_id = :organization_id",
        organization_id=organization_id,
    )


@cache
def _at_once(owner: AsyncEngine) -> AsyncEngine:
    """One round trip for a statement, not three."""
    return owner.execution_options(isolation_level="AUTOCOMMIT")
