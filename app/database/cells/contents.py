"""What cells contain: rows that a stopped move left behind, and the deletion of a cell that contains no organization.

All of it as the owner of the tables.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias
from uuid import UUID

import asyncpg
import sqlalchemy as sa

from app.database.cells.directory import HOME, NAMES
from app.database.connections import connect, read_only_transaction

_Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

_EVERYTHING = f"'', '{UUID(int=0)}', {(1 << 31) - 1}"
# Organizations with secrets in this cell that live elsewhere. The owner's functions list secrets of all organizations.
_LEFT_BEHIND = f"""
    SELECT DISTINCT o.organization_id, o.cell FROM (
        SELECT organization_id FROM {{cell}}.credentials_with_keys()
        UNION SELECT organization_id FROM {{cell}}.sealed_credentials(NULL, {_EVERYTHING})
        UNION SELECT organization_id FROM {{cell}}.unmoved_credentials({_EVERYTHING})
        UNION SELECT organization_id FROM {{cell}}.moved_credentials({_EVERYTHING})
    ) AS s JOIN cells.organization_cell o ON o.organization_id = s.organization_id
    WHERE o.cell <> '{{cell}}' ORDER BY 1
"""
# Waits for transactions that list an organization in the cell, and lets new ones wait: the foreign key of the directory
# locks the cell's row. If the cell is deleted, they begin again in another cell.
_LOCK_CELL = "SELECT FROM cells.cell WHERE name = $1 FOR UPDATE"
_COUNT_LISTED = "SELECT count(*) FROM cells.organization_cell WHERE cell = $1"
# How many organizations a message names.
_MAX_NAMED = 10
_LISTED = f"""
    SELECT organization_id FROM cells.organization_cell WHERE cell = $1 ORDER BY organization_id LIMIT {_MAX_NAMED}
"""
_TABLES = """
    SELECT c.relname AS name, c.relforcerowsecurity AS is_forced FROM pg_class c
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'organization_id'
    WHERE c.relnamespace = to_regnamespace($1) AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY 1
"""


class CellInUse(Exception):
    """The cell was not deleted. The message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftBehind:
    """An organization with secrets in a cell that it has left, because the move was stopped before it deleted them."""

    organization_id: str
    cell: str  # where it lives


async def secrets_left_behind(url: sa.URL) -> Sequence[LeftBehind]:
    """The organizations whose secrets a stopped move left behind. Without cells, none.

    Args:
        url: the owner's login.
    """
    async with read_only_transaction(url) as connection:
        cells = [row["name"] for row in await connection.fetch(NAMES)]
        return [
            LeftBehind(**row)
            for cell in cells
            for row in await connection.fetch(_LEFT_BEHIND.format(cell=cell))
        ]


async def delete_cell(url: sa.URL, cell: str) -> None:
    """Delete a cell in which no organization lives: its schema and its entry in the directory, in one transaction.

    If it is refused, nothing has changed.

    Args:
        url: the owner's login.
        cell: a cell, not the first one.

    Raises:
        CellInUse: the cell holds rows of an organization, or a transaction that uses it did not end within 3 seconds.
    """
    connection = await connect(url)
    try:
        async with connection.transaction():
            await connection.execute("SET LOCAL lock_timeout = '3s'")
            await connection.fetch(_LOCK_CELL, cell)
            await _require_empty(connection, cell)
            await connection.execute(f"DROP SCHEMA {cell} CASCADE")
            await connection.execute("DELETE FROM cells.cell WHERE name = $1", cell)
    except asyncpg.LockNotAvailableError:
        msg = (
            f"A transaction in the cell did not end within 3 seconds. Nothing was changed. Run this command again; while new"
            f" organizations arrive, run `byok cells close {cell}` before"
        )
        raise CellInUse(msg) from None
    finally:
        await connection.close()


async def set_takes_new(url: sa.URL, cell: str, *, takes_new: bool) -> bool:
    """Let the cell take new organizations, or none. Returns False if there is no such cell."""
    connection = await connect(url)
    try:
        changed = await connection.execute(
            "UPDATE cells.cell SET takes_new = $2 WHERE name = $1", cell, takes_new
        )
    finally:
        await connection.close()
    return bool(changed != "UPDATE 0")


async def _require_empty(connection: _Connection, cell: str) -> None:
    assert cell != HOME
    if count := await connection.fetchval(_COUNT_LISTED, cell):
        named = ", ".join(row["organization_id"] for row in await connection.fetch(_LISTED, cell))
        if count == 1:
            msg = f"The organization {named} lives in the cell. Next: byok cells move {named} CELL"
        else:
            others = f" and {count - _MAX_NAMED} more" if count > _MAX_NAMED else ""
            msg = f"{count} organizations live in the cell: {named}{others}. Next: byok cells move ORG CELL, for each of them"
        raise CellInUse(msg)
    for table in await connection.fetch(_TABLES, cell):
        name = f"{cell}.{table['name']}"
        if table["is_forced"]:
            # The owner sees the rows of all organizations. If the cell is not deleted, this is rolled back.
            await connection.execute(f"ALTER TABLE {name} NO FORCE ROW LEVEL SECURITY")
        left = await connection.fetchval(f"SELECT organization_id FROM {name} LIMIT 1")
        if left is not None:
            msg = f"A move of {left} was stopped and left rows in {name}. Next: byok cells move {left} CELL, where it lives"
            raise CellInUse(msg)
