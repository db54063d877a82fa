"""Advisory locks that keep instances of the service and operator commands apart.

Every instance shares one lock. A command that needs all instances stopped takes it exclusively. A lock belongs to
its connection, so it ends with the process. An instance that loses its connection takes the lock again as soon as
possible, and then looks for cells that were added in the meantime. What else must hold in the meantime is guarded by the
row in `app.secret_store.binding`.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from enum import IntEnum
from typing import TypeAlias

import asyncpg
import structlog

from app.core.errors import DatabaseUnavailable
from app.database.driver_errors import translate_database_errors
from app.database.engine import Database

_RETRY_SECONDS = 1.0
_CLOSE_SECONDS = 2.0

_Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

log = structlog.get_logger("byok.database")


class Lock(IntEnum):
    """Keys of the advisory locks: the bytes of "byok" and one more."""

    INSTANCES = 0x62796F6B01
    OPERATOR = 0x62796F6B02


class LockTaken(Exception):
    """Another process holds the lock."""

    def __init__(self, lock: Lock) -> None:
        super().__init__("The lock is taken.")
        self.lock = lock


@asynccontextmanager
async def share_instance_lock(database: Database) -> AsyncIterator[None]:
    """Hold the instance lock, shared with all other instances.

    Raises:
        LockTaken: a command that needs all instances stopped is running.
        DatabaseUnavailable
    """
    lost = asyncio.Event()
    connection = await _acquire(database, Lock.INSTANCES, is_exclusive=False)
    connection.add_termination_listener(lambda _: lost.set())
    keeper = asyncio.create_task(_keep(database, connection, lost))
    await asyncio.sleep(0)  # once the task has started, it closes its connection even if it is cancelled
    try:
        yield
    finally:
        keeper.cancel()
        await asyncio.wait([keeper])


@asynccontextmanager
async def take_exclusive_locks(database: Database, *locks: Lock) -> AsyncIterator[None]:
    """Hold these locks exclusively, for an operator command.

    Raises:
        LockTaken, DatabaseUnavailable
    """
    async with AsyncExitStack() as stack:
        for lock in locks:
            stack.push_async_callback(_close, await _acquire(database, lock, is_exclusive=True))
        yield


async def _keep(database: Database, connection: _Connection, lost: asyncio.Event) -> None:
    """Take the lock again whenever its connection breaks, until cancelled."""
    try:
        while True:
            await lost.wait()
            log.warning("instance_lock_lost")
            connection = await _reacquire(database)
            lost.clear()
            connection.add_termination_listener(lambda _: lost.set())
    finally:
        await _close(connection)


async def _reacquire(database: Database) -> _Connection:
    while True:
        try:
            connection = await _acquire(database, Lock.INSTANCES, is_exclusive=False)
            try:
                await database.look_for_cells()
            except BaseException:
                connection.terminate()
                raise
        except (LockTaken, DatabaseUnavailable):
            await asyncio.sleep(_RETRY_SECONDS)
        else:
            return connection


async def _acquire(database: Database, lock: Lock, *, is_exclusive: bool) -> _Connection:
    with translate_database_errors():
        connection = await database.connect()
        try:
            function = "pg_try_advisory_lock" if is_exclusive else "pg_try_advisory_lock_shared"
            is_acquired = await connection.fetchval(f"SELECT {function}($1)", int(lock))
        except BaseException:
            connection.terminate()
            raise
    if not is_acquired:
        await _close(connection)
        raise LockTaken(lock)
    return connection


async def _close(connection: _Connection) -> None:
    try:
        await connection.close(timeout=_CLOSE_SECONDS)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection.terminate()
