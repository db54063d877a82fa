"""Moves an organization to another cell, as the owner of the tables.

One transaction copies the rows, compares them and changes the directory. A session lock holds the organization's place in the
directory exclusively, so requests of this organization wait, and fail with 503 after their timeout. The lock is taken before
the transaction, whose snapshot therefore has every row that they committed. Jobs without an organization may delete expired
rows meanwhile, which the snapshot does not show.

A second transaction deletes the rows that were left behind, in all cells but the one that the directory has then. Until it
ends, jobs without an organization may find those rows, and find none when they enter the organization's cell. The rows of the
job queue are different, because a worker removes an item in the organization's cell: the first transaction deletes them.

If the command ends at any point, it may be repeated.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

import asyncpg
import sqlalchemy as sa

from app.database.cells.directory import NAMES
from app.database.cells.nodes import WorkersNotReady, wait_for_workers
from app.database.connections import connect, shares_sessions

_Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

_PLACE = "hashtext('byok.cell'), hashtext($1)"
_LOCK = f"SELECT pg_advisory_lock({_PLACE})"
_UNLOCK = f"SELECT pg_advisory_unlock({_PLACE})"
# Requests continue, and another move waits.
_LOCK_SHARED = f"SELECT pg_advisory_xact_lock_shared({_PLACE})"
_FIND = "SELECT cell FROM cells.organization_cell WHERE organization_id = $1"
_SET = "UPDATE cells.organization_cell SET cell = $2 WHERE organization_id = $1"
_TABLES = """
    SELECT c.oid::int8 AS id, c.relname AS name, (
        SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '') AS columns,
        ARRAY(SELECT k.confrelid::int8 FROM pg_constraint k
            WHERE k.conrelid = c.oid AND k.contype = 'f' AND k.confrelid <> c.oid) AS refers_to
    FROM pg_class c JOIN pg_attribute o ON o.attrelid = c.oid AND o.attname = 'organization_id'
    WHERE c.relnamespace = to_regnamespace($1) AND c.relkind IN ('r', 'p') AND NOT c.relispartition
    ORDER BY c.relname
"""
# How often a copy begins again because a worker claimed a job in the moment between its snapshot and its locks.
_ATTEMPTS = 5


class MoveRefused(Exception):
    """The organization was not moved. The message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """Where the organization was and is, and how many rows it has. They are equal if it was there already."""

    source: str
    target: str
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    name: str
    columns: str


async def move_organization(
    url: sa.URL, organization_id: str, target: str, progress: Callable[[str], object]
) -> Moved:
    """Move all rows of the organization to the cell, and delete them elsewhere.

    Args:
        url: the owner's login.
        organization_id: a valid id.
        target: a cell.
        progress: receives one line for each step.

    Raises:
        MoveRefused: the cell or the organization does not exist, the cells have different revisions, or another command
            moves the organization.
    """
    if await shares_sessions(url):
        raise MoveRefused(
            "A pooler in transaction mode is between, and a move needs a session. Set BYOK_DATABASE__MIGRATION_URL to the"
            " server itself"
        )
    connection = await connect(url)
    try:
        if target not in await _cells(connection):
            raise MoveRefused("There is no such cell. `byok cells list` shows them")
        # First what a move left behind that was stopped.
        if await _delete_elsewhere(connection, organization_id) == target:
            return Moved(source=target, target=target, rows=0)
        async with _place_locked(connection, organization_id):
            await wait_for_workers(connection)
            moved = await _move(connection, organization_id, target, progress)
        progress("Deleting what was left behind ...")
        if await _delete_elsewhere(connection, organization_id) != target:
            raise MoveRefused(
                "Another command has moved the organization to a third cell meanwhile. Its rows are there"
            )
    except WorkersNotReady as error:
        raise MoveRefused(str(error)) from None
    finally:
        await connection.close()
    return moved


@asynccontextmanager
async def _place_locked(connection: _Connection, organization_id: str) -> AsyncIterator[None]:
    """Wait for the transactions of the organization, and let new ones wait. A broken connection ends the lock too."""
    await connection.execute(_LOCK, organization_id)
    try:
        yield
    finally:
        if not connection.is_closed():
            await connection.execute(_UNLOCK, organization_id)


@asynccontextmanager
async def _transaction(
    connection: _Connection,
    organization_id: str,
    isolation: Literal["read_committed", "repeatable_read"] = "read_committed",
) -> AsyncIterator[None]:
    """A transaction in which the owner sees the rows of this organization only."""
    async with connection.transaction(isolation=isolation):
        # A separate statement, because Citus repeats its text on the workers.
        await connection.execute(f"SET LOCAL byok.org = '{organization_id}'")
        # Lets it delete usage mode changes that have taken effect.
        await connection.execute("SET LOCAL byok.moves = 'on'")
        yield


async def _move(
    connection: _Connection, organization_id: str, target: str, progress: Callable[[str], object]
) -> Moved:
    """Copy the rows and change the directory. The caller holds the place."""
    source = await _find(connection, organization_id)
    if source == target:
        return Moved(source=source, target=target, rows=0)
    async with _transaction(connection, organization_id):
        await _create_partitions(connection, organization_id, source, target)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            async with _transaction(connection, organization_id, "repeatable_read"):
                rows = await _copy(connection, organization_id, source, target, progress)
            return Moved(source=source, target=target, rows=rows)
        except asyncpg.SerializationError:
            if attempt == _ATTEMPTS:
                raise
    raise AssertionError  # not reached


async def _copy(
    connection: _Connection, organization_id: str, source: str, target: str, progress: Callable[[str], object]
) -> int:
    await _stop_migrations(connection, source, target)
    # Takes the snapshot. Workers skip locked items, so none changes from here on.
    await connection.execute(
        f"SELECT FROM {source}.job_queue WHERE organization_id = $1 FOR UPDATE", organization_id
    )
    revisions = {
        await connection.fetchval(f"SELECT version_num FROM {cell}.alembic_version")
        for cell in (source, target)
    }
    if len(revisions) > 1:
        raise MoveRefused("The cells have different revisions. Run `byok migrate`")
    rows = 0
    for table in await _tables(connection, source):
        progress(f"Copying {table.name} ...")
        rows += await _copy_table(connection, organization_id, source, target, table)
    await connection.execute(f"DELETE FROM {source}.job_queue WHERE organization_id = $1", organization_id)
    # Reports of calls in progress have waited too. Without this, the calls would count as lost.
    await connection.execute(
        f"UPDATE {target}.spend_reservation SET last_seen_at = $2"
        " WHERE organization_id = $1 AND state = 'open' AND last_seen_at IS NOT NULL",
        organization_id,
        await connection.fetchval("SELECT clock_timestamp()"),  # Citus allows no such function in an UPDATE
    )
    await connection.execute(_SET, organization_id, target)
    return rows


async def _copy_table(
    connection: _Connection, organization_id: str, source: str, target: str, table: _Table
) -> int:
    # With RETURNING in a CTE, because Citus writes the rows of another INSERT with COPY, which row-level security
    # refuses.
    await connection.fetchval(
        f"WITH copied AS (INSERT INTO {target}.{table.name} ({table.columns}) SELECT {table.columns}"
        f" FROM {source}.{table.name} WHERE organization_id = $1 RETURNING 1) SELECT count(*) FROM copied",
        organization_id,
    )
    before, after = [await _content(connection, organization_id, cell, table) for cell in (source, target)]
    if before != after:
        msg = f"The copy of {table.name} differs. Nothing was changed; report this"
        raise MoveRefused(msg)
    return after[0]


async def _delete_elsewhere(connection: _Connection, organization_id: str) -> str:
    """Delete the organization's rows in all cells but its own, which is returned."""
    async with _transaction(connection, organization_id):
        await connection.execute(_LOCK_SHARED, organization_id)
        present = await _find(connection, organization_id)
        for cell in await _cells(connection):
            if cell == present:
                continue
            await _stop_migrations(connection, cell)
            for table in reversed(await _tables(connection, cell)):
                await connection.execute(
                    f"DELETE FROM {cell}.{table.name} WHERE organization_id = $1", organization_id
                )
    return present


async def _stop_migrations(connection: _Connection, *cells: str) -> None:
    """Let migrations of these cells wait until the transaction ends. Takes no snapshot."""
    for cell in cells:
        await connection.execute(f"LOCK TABLE {cell}.alembic_version IN SHARE MODE")


async def _cells(connection: _Connection) -> Sequence[str]:
    return [row["name"] for row in await connection.fetch(NAMES)]


async def _find(connection: _Connection, organization_id: str) -> str:
    cell: str | None = await connection.fetchval(_FIND, organization_id)
    if cell is None:
        raise MoveRefused("The organization has no rows yet, so it has no cell")
    return cell


async def _create_partitions(connection: _Connection, organization_id: str, source: str, target: str) -> None:
    """Create partitions for the events. In a short transaction, because it keeps other organizations from writing."""
    bounds = await connection.fetchrow(
        f"SELECT min(started_at) AS first, max(started_at) AS last FROM {source}.usage_event"
        " WHERE organization_id = $1",
        organization_id,
    )
    if bounds is not None and bounds["first"] is not None:
        await connection.execute(
            f"SELECT {target}.ensure_usage_partitions($1, $2)", bounds["first"], bounds["last"]
        )


async def _content(
    connection: _Connection, organization_id: str, cell: str, table: _Table
) -> tuple[int, str]:
    """The number of rows, and the sum of a 64-bit hash of each."""
    row = await connection.fetchrow(
        f"SELECT count(*) AS n, coalesce(sum(hashtextextended(ROW({table.columns})::text, 0)), 0)::text AS digest"
        f" FROM {cell}.{table.name} WHERE organization_id = $1",
        organization_id,
    )
    assert row is not None
    return row["n"], row["digest"]


async def _tables(connection: _Connection, cell: str) -> Sequence[_Table]:
    return _parents_first(await connection.fetch(_TABLES, cell))


def _parents_first(rows: Sequence[asyncpg.Record]) -> Sequence[_Table]:
    """The tables in an order in which none refers to a later one."""
    waiting, placed, ordered = {row["id"]: row for row in rows}, set[int](), list[_Table]()
    while waiting:
        ready = [row for row in waiting.values() if placed.issuperset(row["refers_to"])]
        if not ready:
            raise MoveRefused("Tables refer to each other in a circle")
        for row in ready:
            placed.add(row["id"])
            ordered.append(_Table(name=row["name"], columns=row["columns"]))
            del waiting[row["id"]]
    return ordered
