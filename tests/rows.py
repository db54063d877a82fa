"""What the tests look up and alter in the database as its owner, past every policy."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine


async def fetch(owner: AsyncEngine, statement: str, **values: Any) -> list[dict[str, Any]]:
    async with _at_once(owner).connect() as connection:
        found = await connection.execute(sa.text(statement), values)
        return [dict(row) for row in found.mappings()]


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


def _at_once(owner: AsyncEngine) -> AsyncEngine:
    """One round trip for a statement, not three: tests look at the database thousands of times."""
    return owner.execution_options(isolation_level="AUTOCOMMIT")
