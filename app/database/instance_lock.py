"""Who works on a database: instances share a lock, and a command that needs them gone takes it alone.

The lock is one of PostgreSQL's own, held by a connection, so it ends with its process. An instance
whose connection broke takes it again as soon as it can. What must hold even in between is held by
the row that `app.secret_store.binding` keeps.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from enum import IntEnum
from typing import TypeAlias

import asyncpg
import structlog

from app.core.errors import DatabaseUnavailable
from app.database.engine import Database, unavailable_when_down

_PAUSE_SECONDS = 1.0
_CLOSE_SECONDS = 2.0

_Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

log = structlog.get_logger(__name__)


class Lock(IntEnum):
    """Numbers of advisory locks: "byok" and one more byte."""

    INSTANCES = 0x62796F6B01
    OPERATOR = 0x62796F6B02


class LockTaken(Exception):
    """Somebody holds a lock that this one needs."""

    def __init__(self, lock: Lock) -> None:
        super().__init__("The lock is taken.")
        self.lock = lock


@asynccontextmanager
async def present(database: Database) -> AsyncIterator[None]:
    """Be one of the instances.

    Raises:
        LockTaken: a command needs all instances gone.
        DatabaseUnavailable
    """
    lost = asyncio.Event()
    connection = await _locked(database, Lock.INSTANCES, alone=False)
    connection.add_termination_listener(lambda _: lost.set())
    keeper = asyncio.create_task(_keep(database, connection, lost))
    await asyncio.sleep(0)  # begun, it closes its connection however it ends
    try:
        yield
    finally:
        keeper.cancel()
        await asyncio.wait([keeper])


@asynccontextmanager
async def alone(database: Database, *locks: Lock) -> AsyncIterator[None]:
    """Hold these locks and nobody else, as an operator's command.

    Raises:
        LockTaken, DatabaseUnavailable
    """
    async with AsyncExitStack() as stack:
        for lock in locks:
            stack.push_async_callback(_close, await _locked(database, lock, alone=True))
        yield


async def _keep(database: Database, connection: _Connection, lost: asyncio.Event) -> None:
    try:
        while True:
            await lost.wait()
            log.warning("presence_lost")
            connection = await _again(database)
            lost.clear()
            connection.add_termination_listener(lambda _: lost.set())
    finally:
        await _close(connection)


async def _again(database: Database) -> _Connection:
    while True:
        try:
            return await _locked(database, Lock.INSTANCES, alone=False)
        except (LockTaken, DatabaseUnavailable):
            await asyncio.sleep(_PAUSE_SECONDS)


async def _locked(database: Database, lock: Lock, *, alone: bool) -> _Connection:
    with unavailable_when_down():
        connection = await database.connect()
        try:
            take = "pg_try_advisory_lock" if alone else "pg_try_advisory_lock_shared"
            is_taken = await connection.fetchval(f"SELECT {take}($1)", int(lock))
        except BaseException:
            connection.terminate()
            raise
    if not is_taken:
        await _close(connection)
        raise LockTaken(lock)
    return connection


async def _close(connection: _Connection) -> None:
    try:
        await connection.close(timeout=_CLOSE_SECONDS)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection.terminate()
