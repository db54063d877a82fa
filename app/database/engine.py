"""The database: pool, and sessions that see one organization's rows.

Statements are written in SQLAlchemy Core and compiled once, at import. A `Session` runs them on
the driver itself, asyncpg, from its own pool: through SQLAlchemy's execution layer the same read
costs four times as much (docs/adr/0004-statements-on-the-driver.md).
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import asyncpg
import sqlalchemy as sa
import structlog
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.sql.compiler import SQLCompiler

from app.core.errors import DatabaseUnavailable
from app.core.organizations import ORGANIZATION_PATTERN

log = structlog.get_logger(__name__)

SERVICE_ROLE = "byok_service"

Row = Mapping[str, Any]

_ORGANIZATION = re.compile(ORGANIZATION_PATTERN)
_DIALECT = PGDialect_asyncpg(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]

# What says that the database, not the statement, is at fault; the work may be repeated.
_UNREACHABLE = (
    OSError,  # includes TimeoutError
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.exceptions.InsufficientResourcesError,
    asyncpg.exceptions.OperatorInterventionError,  # shutting down, starting up, statement time-out
    asyncpg.exceptions.LockNotAvailableError,
    asyncpg.exceptions.DeadlockDetectedError,
    asyncpg.exceptions.ReadOnlySQLTransactionError,  # a fail-over left us on a standby
    asyncpg.exceptions.InvalidAuthorizationSpecificationError,
    asyncpg.exceptions.IdleInTransactionSessionTimeoutError,
    asyncpg.exceptions.InvalidCatalogNameError,
)
# The connection lives: what it waited for did not come in time.
_WAITED_IN_VAIN = (
    TimeoutError,
    asyncpg.exceptions.QueryCanceledError,
    asyncpg.exceptions.LockNotAvailableError,
    asyncpg.exceptions.DeadlockDetectedError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseLogin:
    """How the service logs in. `set_role`: the login is another role, and takes on the service's."""

    url: sa.URL
    set_role: bool


class Query:
    """A Core statement compiled to the driver's text and parameter order. All values are bind parameters."""

    __slots__ = ("_order", "text")

    def __init__(self, statement: sa.sql.ClauseElement) -> None:
        compiled = statement.compile(dialect=_DIALECT)
        assert isinstance(compiled, SQLCompiler)
        self.text = str(compiled)
        self._order: tuple[str, ...] = tuple(compiled.positiontup or ())
        assert all(compiled.binds[name].required for name in self._order), "a value is fixed in the statement"

    def arguments(self, values: Mapping[str, Any]) -> list[Any]:
        return [values[name] for name in self._order]


class Opening:
    """A statement that begins transactions: one without values, which can only name the organization by its setting."""

    __slots__ = ("text",)

    def __init__(self, statement: sa.sql.ClauseElement) -> None:
        compiled = Query(statement)
        assert not compiled.arguments({}), "it has no values"
        self.text = compiled.text


class Session:
    """One transaction on one connection. Writing ones keep nothing unless `commit` is called."""

    __slots__ = ("_connection", "is_open")

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.is_open = True

    async def rows(self, statement: Query, /, **values: Any) -> Sequence[Row]:
        found: Sequence[Row] = await self._connection.fetch(statement.text, *statement.arguments(values))
        return found

    async def first(self, statement: Query, /, **values: Any) -> Row | None:
        found: Row | None = await self._connection.fetchrow(statement.text, *statement.arguments(values))
        return found

    async def execute(self, statement: Query, /, **values: Any) -> int:
        """Run a statement and return how many rows it touched."""
        tag: str = await self._connection.execute(statement.text, *statement.arguments(values))
        return int(tag.rpartition(" ")[2])

    async def commit(self) -> None:
        await self._connection.execute("COMMIT")
        self.is_open = False

    async def roll_back(self) -> None:
        await self._connection.execute("ROLLBACK")
        self.is_open = False


class Database:
    """A pool of connections that all run as the service's role.

    Args:
        login: where, as whom.
        pool_size: connections kept, and opened at most.
        timeout_seconds: bound of connecting, of waiting for a connection, and of one statement.
    """

    def __init__(self, login: DatabaseLogin, *, pool_size: int = 10, timeout_seconds: float = 5.0) -> None:
        self._login = login
        self._pool_size = pool_size
        self._timeout_seconds = timeout_seconds
        self._pool: asyncpg.Pool | None = None
        self._opening = asyncio.Lock()

    @asynccontextmanager
    async def session(
        self, organization_id: str | None, *, read_only: bool = False, opening: Opening | None = None
    ) -> AsyncIterator[Session]:
        """A transaction that sees the rows of one organization; without one, only unguarded tables.

        Leaving without `commit` rolls back, except that a read-only one has nothing to lose.

        Args:
            organization_id: whose rows.
            read_only: refuse writes.
            opening: run first, in the round trip that begins the transaction.

        Raises:
            DatabaseUnavailable: no connection can be had, it broke, or a time-out passed.
        """
        begin = _begin(organization_id, read_only=read_only)
        if opening is not None:
            begin = f"{begin}; {opening.text}"
        with unavailable_when_down():
            async with self._connected(begin) as driver:
                session = Session(driver)
                try:
                    yield session
                    if session.is_open:
                        await (session.commit if read_only else session.roll_back)()
                except Exception:
                    # An error of the use case: give the connection back clean, or not at all.
                    await _abandon(driver, session)
                    raise
                except BaseException:
                    # Cancelled in the middle of something: never hand this connection on.
                    driver.terminate()
                    raise

    @asynccontextmanager
    async def _connected(self, begin: str) -> AsyncIterator[Any]:
        """A pooled connection on which `begin` has run; once more on a fresh one if the pooled one had died."""
        pool = await self._opened()
        for attempt in (1, 2):
            driver = await pool.acquire(timeout=self._timeout_seconds)
            try:
                try:
                    await driver.execute(begin)
                except BaseException as error:
                    driver.terminate()
                    is_dead = isinstance(error, _UNREACHABLE) and not isinstance(error, _WAITED_IN_VAIN)
                    if attempt == 1 and is_dead:
                        continue
                    raise
                yield driver
                return
            finally:
                await pool.release(driver)

    async def _opened(self) -> asyncpg.Pool:
        """The pool, made on first use: only then is there a loop for it to live in."""
        if self._pool is None:
            async with self._opening:
                if self._pool is None:
                    self._pool = await self._open()
        return self._pool

    async def _open(self) -> asyncpg.Pool:
        return await asyncpg.create_pool(
            **self._where(),
            min_size=0,
            max_size=self._pool_size,
            init=_set_up_as_service if self._login.set_role else _set_up,
            reset=_leave_as_it_is,
        )

    async def connect(self) -> "asyncpg.Connection[asyncpg.Record]":
        """A connection beside the pool, for a lock that lasts longer than a transaction. The caller closes it."""
        return await asyncpg.connect(**self._where())

    def _where(self) -> dict[str, Any]:
        milliseconds = str(int(self._timeout_seconds * 1000))
        _, where = _DIALECT.create_connect_args(self._login.url)  # type: ignore[no-untyped-call]  # SQLAlchemy's
        for own in ("prepared_statement_cache_size", "prepared_statement_name_func", "async_fallback"):
            where.pop(own, None)  # SQLAlchemy's, not the driver's
        return dict(where) | {
            "timeout": self._timeout_seconds,
            "command_timeout": self._timeout_seconds * 2,
            "server_settings": {
                "application_name": "byok",
                "jit": "off",  # every statement here is short
                "statement_timeout": milliseconds,
                "lock_timeout": milliseconds,
                "idle_in_transaction_session_timeout": "30000",
            },
        }

    async def ping(self) -> None:
        """Raise DatabaseUnavailable unless a transaction runs right now."""
        async with self.session(None, read_only=True):
            pass

    @property
    def connections_in_use(self) -> int:
        return 0 if self._pool is None else self._pool.get_size() - self._pool.get_idle_size()

    async def close(self) -> None:
        """Wait for what is under way, as long as it may take, then close every connection."""
        if self._pool is not None:
            with suppress(TimeoutError):  # a connection that never came back: cut off by the pool itself
                async with asyncio.timeout(self._timeout_seconds * 3):
                    await self._pool.close()
            self._pool = None


@contextmanager
def unavailable_when_down() -> Iterator[None]:
    """Turn every sign of an unreachable database into DatabaseUnavailable, without its cause.

    Driver messages name hosts, users and statements; none of them goes further.
    """
    try:
        yield
    except _UNREACHABLE as error:
        log.warning("database_unavailable", error=type(error).__name__)
        raise DatabaseUnavailable from None


def _begin(organization_id: str | None, *, read_only: bool) -> str:
    """Begin and set the organization in one round trip. The pattern leaves nothing to quote wrongly."""
    begin = "BEGIN READ ONLY" if read_only else "BEGIN"
    if organization_id is None:
        return begin
    if not _ORGANIZATION.fullmatch(organization_id):
        raise ValueError("not an organization id")
    return f"{begin}; SET LOCAL byok.org = '{organization_id}'"


async def _abandon(driver: Any, session: Session) -> None:
    try:
        if session.is_open:
            await session.roll_back()
    except BaseException:  # noqa: BLE001  # the first error is the one to tell
        driver.terminate()


async def _set_up(driver: asyncpg.Connection) -> None:
    # Repositories write JSON as text and read it parsed.
    await driver.set_type_codec("jsonb", schema="pg_catalog", encoder=str, decoder=json.loads)


async def _set_up_as_service(driver: asyncpg.Connection) -> None:
    await _set_up(driver)
    # Outside any transaction: within one, a rollback would give the owner's role back.
    await driver.execute(f"SET ROLE {SERVICE_ROLE}")


async def _leave_as_it_is(_driver: asyncpg.Connection) -> None:
    """Every session ends its transaction itself, and RESET ALL would give the owner's role back."""
