"""The database engine: pool, role and organization of every transaction.

Two ways to use it. `transaction` is SQLAlchemy's connection, for anything that writes.
`snapshot` runs statements written in SQLAlchemy Core straight on the pooled asyncpg
connection, for reads on the hot path: it costs a quarter (docs/adr/0004).
Both set `byok.org` for the transaction, which the row-level security policies compare with.
"""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.sql.compiler import SQLCompiler

from app.domain.auth import ORGANIZATION_PATTERN
from app.domain.errors import DatabaseUnavailable

SERVICE_ROLE = "byok_service"

_ORGANIZATION = re.compile(ORGANIZATION_PATTERN.strip("^$"))
_DIALECT = PGDialect_asyncpg(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
_UNREACHABLE = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.CannotConnectNowError,
)


class Statement:
    """A Core statement compiled once, at import, to the driver's text and parameter order."""

    __slots__ = ("_order", "text")

    def __init__(self, statement: sa.sql.ClauseElement) -> None:
        compiled = statement.compile(dialect=_DIALECT)
        assert isinstance(compiled, SQLCompiler)
        self.text = str(compiled)
        self._order: tuple[str, ...] = tuple(compiled.positiontup or ())
        fixed = {name: value for name, value in compiled.params.items() if value is not None}
        if fixed:
            raise ValueError("a Statement takes all its values as bind parameters")

    def arguments(self, parameters: Mapping[str, Any]) -> list[Any]:
        return [parameters[name] for name in self._order]


class Snapshot:
    """A read-only look at one organization's rows."""

    __slots__ = ("_connection",)

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def rows(self, statement: Statement, /, **parameters: Any) -> Sequence[Mapping[str, Any]]:
        found: Sequence[Mapping[str, Any]] = await self._connection.fetch(
            statement.text, *statement.arguments(parameters)
        )
        return found

    async def first(self, statement: Statement, /, **parameters: Any) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = await self._connection.fetchrow(
            statement.text, *statement.arguments(parameters)
        )
        return found


class Database:
    """A pool of connections that all run as the service's role.

    Args:
        url: SQLAlchemy URL with the asyncpg driver.
        set_role: run SET ROLE byok_service on every connection, for a login that is not that role.
        pool_size: connections kept and at most opened.
        timeout_seconds: bound of connecting, of waiting for a pooled connection, and of a statement.
    """

    def __init__(
        self, url: sa.URL, *, set_role: bool, pool_size: int = 10, timeout_seconds: float = 5.0
    ) -> None:
        self.engine: AsyncEngine = create_async_engine(
            url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=timeout_seconds,
            pool_recycle=1800,
            hide_parameters=True,  # statements in errors never show their values
            connect_args={
                "timeout": timeout_seconds,
                "command_timeout": timeout_seconds * 2,
                "server_settings": {
                    "application_name": "byok",
                    "jit": "off",  # every statement here is short
                    "statement_timeout": str(int(timeout_seconds * 1000)),
                    "lock_timeout": str(int(timeout_seconds * 1000)),
                    "idle_in_transaction_session_timeout": "30000",
                },
            },
        )
        if set_role:
            event.listen(self.engine.sync_engine, "connect", _set_role)

    @asynccontextmanager
    async def transaction(self, organization_id: str | None = None) -> AsyncIterator[AsyncConnection]:
        """One transaction that sees one organization's rows; committed on leaving, rolled back on error.

        Without an organization only tables outside row-level security can be seen.

        Raises:
            DatabaseUnavailable: no connection can be had, or it broke.
        """
        try:
            async with self.engine.begin() as connection:
                if organization_id is not None:
                    await connection.execute(_SET_ORGANIZATION, {"organization_id": organization_id})
                yield connection
        except (*_UNREACHABLE, PoolTimeout, OperationalError, InterfaceError) as error:
            raise _unavailable(error) from None
        except DBAPIError as error:
            if error.connection_invalidated or is_transient(error):
                raise DatabaseUnavailable from None
            raise

    @asynccontextmanager
    async def snapshot(self, organization_id: str) -> AsyncIterator[Snapshot]:
        """A read-only transaction on the driver itself. Same guard as `transaction`.

        Raises:
            DatabaseUnavailable
        """
        if not _ORGANIZATION.fullmatch(organization_id):
            raise ValueError("not an organization id")
        try:
            async with self.engine.connect() as connection:
                driver: asyncpg.Connection = (await connection.get_raw_connection()).driver_connection
                try:
                    # One round trip; the pattern above leaves nothing that could be quoted wrongly.
                    await driver.execute(f"BEGIN READ ONLY; SET LOCAL byok.org = '{organization_id}'")
                    yield Snapshot(driver)
                    await driver.execute("COMMIT")
                except BaseException:
                    # SQLAlchemy does not know of this transaction: never hand the connection on.
                    await connection.invalidate()
                    raise
        except (*_UNREACHABLE, PoolTimeout, DBAPIError) as error:
            raise _unavailable(error) from None

    async def ping(self) -> None:
        """Raise DatabaseUnavailable unless a statement runs right now."""
        async with self.transaction() as connection:
            await connection.execute(sa.text("SELECT 1"))

    async def close(self) -> None:
        await self.engine.dispose()


_SET_ORGANIZATION = sa.text("SELECT set_config('byok.org', :organization_id, true)")


def is_transient(error: DBAPIError) -> bool:
    """Whether the same transaction may well succeed when repeated (deadlock, lock or statement time-out, shutdown)."""
    state = getattr(error.orig, "sqlstate", None) or ""
    return state[:2] in {"08", "53", "57"} or state in {"40001", "40P01", "55P03"}


def _unavailable(_error: BaseException) -> DatabaseUnavailable:
    """An error without its cause: driver messages name hosts and users."""
    return DatabaseUnavailable()


def _set_role(dbapi_connection: Any, _entry: ConnectionPoolEntry) -> None:
    cursor = dbapi_connection.cursor()
    cursor.execute(f"SET ROLE {SERVICE_ROLE}")
    cursor.close()
