"""Statements of tests that run as the superuser, without row-level security."""

from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine


async def fetch(superuser: AsyncEngine, statement: str, **values: Any) -> list[dict[str, Any]]:
    """Run a query and return its rows."""
    async with _autocommit(superuser).connect() as connection:
        found = await connection.execute(sa.text(statement), values)
        return [dict(row) for row in found.mappings()]


async def fetch_organization_rows(
    superuser: AsyncEngine, *tables: str, organization_id: str
) -> dict[str, list[dict[str, Any]]]:
    """All rows of one organization in these tables.

    Uses the driver directly, because some tests call this thousands of times.
    """
    async with _autocommit(superuser).connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        statement = "SELECT * FROM {} WHERE organization_id = $1"
        return {
            table: [dict(row) for row in await driver.fetch(statement.format(table), organization_id)]
            for table in tables
        }


async def change(superuser: AsyncEngine, statement: str, **values: Any) -> int:
    """Run a statement and return the number of affected rows."""
    async with _autocommit(superuser).connect() as connection:
        return (await connection.execute(sa.text(statement), values)).rowcount


async def make_due(superuser: AsyncEngine, organization_id: str) -> None:
    """Make all queued work of this organization due, and let its previous keys expire."""
    await change(
        superuser,
        "UPDATE credential_version SET retires_at = now() - interval '1 second'"
        " WHERE organization_id = :organization_id AND retires_at IS NOT NULL",
        organization_id=organization_id,
    )
    await change(
        superuser,
        "UPDATE job_queue SET due_at = now() - interval '1 second' WHERE organization_id = :organization_id",
        organization_id=organization_id,
    )


@cache
def _autocommit(superuser: AsyncEngine) -> AsyncEngine:
    """Without BEGIN and COMMIT a statement is one round trip instead of three."""
    return superuser.execution_options(isolation_level="AUTOCOMMIT")
