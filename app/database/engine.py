"""The connection pool, and sessions that see the rows of one organization.

Statements are written in SQLAlchemy Core and compiled once. A `Session` runs them directly on the
driver, asyncpg, with a separate pool: through SQLAlchemy's execution layer the same read costs four times as
much (docs/explanation/adr/0004-statements-on-asyncpg.md).
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import asyncpg
import sqlalchemy as sa
import structlog

from app.core.errors import DatabaseUnavailable
from app.core.organizations import ORGANIZATION_PATTERN
from app.database.cells.directory import ARE_ON_CITUS, HAVE_BEEN_ADDED, HOME, NAMES, CellDirectory
from app.database.connections import (
    SERVICE_ROLE,
    connect_arguments,
    for_one_transaction,
    is_pooled,
    notice_lost_client,
    session_settings,
)
from app.database.driver_errors import is_dead, translate_database_errors
from app.database.pool_shares import PoolQuotas, PoolShares
from app.database.sessions import AutocommitSelects, Session
from app.database.shared_calls import Call, SharedCalls, fetch_together
from app.database.statements import FixedStatement, Query, Row

log = structlog.get_logger("byok.database")

_ORGANIZATION = re.compile(ORGANIZATION_PATTERN)

# By default PostgreSQL plans a statement with arrays again at every execution, which takes a quarter of its CPU time for one
# event. A kept plan is made for arrays of ten, so it suits few rows, and not thousands: those it may compare each with each. Citus
# cannot keep the plans of all statements.
_PLANS = {
    None: "",
    True: "; SET LOCAL plan_cache_mode = force_generic_plan",
    False: "; SET LOCAL plan_cache_mode = force_custom_plan",
}

# How often a transaction begins again because its organization has moved to another cell.
_ENTRIES = 3
_NAMES = Query(sa.text(NAMES))


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseLogin:
    """How the service logs in.

    Attributes:
        url: the server, or a pooler before it.
        set_role: the login is a different role and runs `SET ROLE byok_service`.
        direct_url: the server without a pooler, for locks that belong to a session. None: `url` leads there.
    """

    url: sa.URL
    set_role: bool
    direct_url: sa.URL | None = None

    @property
    def session_url(self) -> sa.URL:
        """The URL of connections whose session stays theirs."""
        return self.url if self.direct_url is None else self.direct_url


@dataclass(frozen=True, slots=True, kw_only=True)
class _Beginning:
    """The parts of the round trip that begins a transaction. With cells, the entry sets the organization."""

    organization_id: str | None
    set_organization: str
    writes: bool
    begin: str
    plans: str
    first: str

    @property
    def text(self) -> str:
        """The SQL without cells."""
        return self.begin + self.set_organization + self.plans + self.first


class Database:
    """A pool of connections that all have the privileges of the role `byok_service`.

    Args:
        login: the server and the login role.
        pool_size: the maximum number of connections. One that is idle for five minutes is closed.
        timeout_seconds: limit for connecting, for waiting for a free connection, and for one statement.
        quotas: how organizations share the connections. None: without quotas, for commands.
        is_replica: the server is a replica. There are no cells then, so none are looked for.
    """

    def __init__(
        self,
        login: DatabaseLogin,
        *,
        pool_size: int = 10,
        timeout_seconds: float = 5.0,
        quotas: PoolQuotas | None = None,
        is_replica: bool = False,
    ) -> None:
        self._login = login
        self._is_replica = is_replica
        self._pool_size = pool_size
        self._timeout_seconds = timeout_seconds
        self._is_pooled = is_pooled(login.url)
        self._local_settings = (
            for_one_transaction(session_settings(timeout_seconds), set_role=login.set_role)
            if self._is_pooled
            else ""
        )
        self._shares = (
            None if quotas is None else PoolShares(pool_size, quotas, timeout_seconds=timeout_seconds)
        )
        self._shared_calls: dict[Query, SharedCalls] = {}
        self._cells: CellDirectory | None = None  # None: all organizations live in the first cell
        self._pool: asyncpg.Pool | None = None
        self._pool_lock = asyncio.Lock()

    @asynccontextmanager
    async def session(
        self,
        organization_id: str | None,
        *,
        read_only: bool = False,
        is_bulk: bool = False,
        is_snapshot: bool = False,
        first_statement: FixedStatement | None = None,
        keeps_plans: bool | None = None,
    ) -> AsyncIterator[Session]:
        """Open a transaction that sees the rows of one organization. Without `commit`, leaving it rolls it back.

        Args:
            organization_id: whose rows. None: only tables without row-level security.
            read_only: PostgreSQL rejects writes.
            is_bulk: never use the reserved connections.
            is_snapshot: all statements see the same snapshot of the database.
            first_statement: runs in the same round trip as BEGIN.
            keeps_plans: without cells, whether PostgreSQL plans its statements once per connection, or each time. True is for
                statements with few rows, False for those with very many. None: PostgreSQL decides.

        Raises:
            DatabaseUnavailable: no connection became free, the connection broke, or a timeout passed.
            ConcurrencyLimited: the organization uses as many connections as it may.
        """
        begin = _begin(read_only=read_only, is_snapshot=is_snapshot) + self._local_settings
        beginning = _beginning(
            organization_id, begin, first_statement, writes=not read_only, keeps_plans=keeps_plans
        )
        with translate_database_errors():
            async with self._share(organization_id, is_bulk=is_bulk), self._connected(beginning) as driver:
                session = self._session_on(driver, organization_id)
                try:
                    yield session
                    if session.is_open:
                        await (session.commit if read_only else session.roll_back)()
                except Exception:
                    # An error of the use case: return a clean connection to the pool, or close it.
                    await _roll_back_or_terminate(driver, session)
                    raise
                except BaseException:
                    # Cancelled: a statement may still be running, so never reuse this connection.
                    _terminate(driver)
                    raise

    def _session_on(self, driver: Any, organization_id: str | None) -> Session:
        if self._cells is None or self._cells.is_home(organization_id):
            return Session(driver)
        return Session(driver, is_home=False, is_on_citus=self._cells.is_on_citus)

    def autocommit_read(self, organization_id: str, *, is_bulk: bool = False) -> AutocommitSelects:
        """A session for SELECTs that see the rows of one organization, each in a separate transaction.

        It has a connection only while a statement runs, so it needs no closing. Its statements raise the errors of `session`.

        Args:
            organization_id: whose rows.
            is_bulk: never use the reserved connections.
        """
        return self._autocommit(organization_id, read_only=True, is_bulk=is_bulk)

    def autocommit_call(self, organization_id: str) -> AutocommitSelects:
        """A session for calls of database functions, each committed when it returns.

        Calls for several organizations that arrive at the same time share a transaction (`app.database.shared_calls`). If
        the call of another organization undoes it, or the connection breaks, the call is repeated, although the first one
        may have been committed. So call only functions that may be repeated. For the rest see `autocommit_read`.
        """
        return self._autocommit(organization_id, read_only=False, is_bulk=False)

    def _autocommit(self, organization_id: str, *, read_only: bool, is_bulk: bool) -> AutocommitSelects:
        async def fetch(statement: Query, values: Mapping[str, Any]) -> Sequence[Row]:
            arguments = statement.arguments(values)
            with translate_database_errors():
                async with self._share(organization_id, is_bulk=is_bulk):
                    call = Call(organization_id=organization_id, arguments=arguments)
                    return await (
                        self._fetch(statement, call) if read_only else self._calls(statement).fetch(call)
                    )

        async def fetch_in_transaction(statement: Query, values: Mapping[str, Any]) -> Sequence[Row]:
            async with self.session(organization_id, read_only=read_only, is_bulk=is_bulk) as session:
                found = await session.rows(statement, **values)
                await session.commit()
            return found

        async def fetch_once_known(statement: Query, values: Mapping[str, Any]) -> Sequence[Row]:
            if self._pool is None:
                with translate_database_errors():
                    await self._get_pool()  # and learn if there are cells
            # The driver sends a statement in two steps. Outside a transaction they could reach two sessions of a pooler,
            # and an organization can only enter its cell in one.
            in_transaction = self._is_pooled or self._cells is not None
            return await (fetch_in_transaction if in_transaction else fetch)(statement, values)

        return AutocommitSelects(fetch_once_known)

    def _share(self, organization_id: str | None, *, is_bulk: bool) -> AbstractAsyncContextManager[None]:
        """Hold one of the connections that the organization may use at the same time."""
        return nullcontext() if self._shares is None else self._shares.share(organization_id, is_bulk=is_bulk)

    async def _fetch(self, statement: Query, call: Call) -> Sequence[Row]:
        """Run a SELECT outside a transaction. Repeats it on a second connection if the first one broke."""
        pool = await self._get_pool()
        for attempt in (1, 2):
            driver = await pool.acquire(timeout=self._timeout_seconds)
            try:
                found: Sequence[Row] = await driver.fetch(
                    statement.scoped_text, *call.arguments, call.organization_id
                )
            except BaseException as error:
                _terminate(driver)  # a cancelled statement may still be running
                if attempt == 1 and is_dead(error):
                    continue
                raise
            else:
                return found
            finally:
                await pool.release(driver)
        raise DatabaseUnavailable  # not reached: the second attempt returns or raises

    def _calls(self, statement: Query) -> SharedCalls:
        calls = self._shared_calls.get(statement)
        if calls is None:
            calls = self._shared_calls[statement] = SharedCalls(
                statement, self._fetch_together, self._fetch, timeout_seconds=self._timeout_seconds
            )
        return calls

    async def _fetch_together(self, statement: Query, calls: Sequence[Call]) -> Sequence[Sequence[Row]]:
        pool = await self._get_pool()
        driver = await pool.acquire(timeout=self._timeout_seconds)
        try:
            return await fetch_together(driver, statement, calls)
        except asyncpg.LockNotAvailableError:
            raise  # the connection still works
        except BaseException:
            _terminate(driver)  # a cancelled statement may still be running
            raise
        finally:
            await pool.release(driver)

    @asynccontextmanager
    async def _connected(self, beginning: _Beginning) -> AsyncIterator[Any]:
        """A pooled connection on which a transaction has begun. Tries a second one if the first one was dead."""
        pool = await self._get_pool()
        for attempt in (1, 2):
            driver = await pool.acquire(timeout=self._timeout_seconds)
            try:
                try:
                    await self._enter(driver, beginning)
                except BaseException as error:
                    _terminate(driver)
                    if attempt == 1 and is_dead(error):
                        continue
                    raise
                yield driver
                return
            finally:
                await pool.release(driver)

    async def _enter(self, driver: Any, beginning: _Beginning) -> None:
        """Begin a transaction, in the organization's cell if there are cells."""
        cells, organization_id = self._cells, beginning.organization_id
        if cells is None:
            await driver.execute(beginning.text)
            return
        for _ in range(_ENTRIES):
            try:
                if organization_id is not None and beginning.writes and cells.is_to_list(organization_id):
                    await driver.execute(f"{beginning.begin}{cells.entry(organization_id)}; COMMIT")
                    cells.note_listed(organization_id)
                await driver.execute(beginning.begin + cells.entry(organization_id) + beginning.first)
            except asyncpg.PostgresError as error:
                if organization_id is None or not cells.learn(organization_id, error):
                    raise
                await driver.execute("ROLLBACK")
            else:
                return
        raise DatabaseUnavailable

    async def cells(self) -> Sequence[str]:
        """The names of all cells, the first one first. Without cells, this takes no connection.

        Raises:
            DatabaseUnavailable
        """
        with translate_database_errors():
            await self._get_pool()  # and learn if there are cells
        if self._cells is None:
            return [HOME]
        async with self.session(None, read_only=True) as session:
            return [row["name"] for row in await session.rows(_NAMES)]

    async def look_for_cells(self) -> None:
        """Read again whether there are cells: while the instance lock was lost, the first one may have been added.

        Raises:
            DatabaseUnavailable
        """
        if self._cells is None:
            with translate_database_errors():
                self._cells = await _read_cells(await self._get_pool(), self._timeout_seconds)

    async def _get_pool(self) -> asyncpg.Pool:
        """The pool. It is created on first use because it belongs to the running event loop."""
        if self._pool is None:
            async with self._pool_lock:
                if self._pool is None:
                    pool = await self._create_pool()
                    # Not on a replica: while it cannot be reached, each waiting report would take one timeout longer.
                    if not self._is_replica:
                        await self._read_cells_first(pool)
                    self._pool = pool
        return self._pool

    async def _create_pool(self) -> asyncpg.Pool:
        return await asyncpg.create_pool(
            **self._connect_args(self._login.url),
            min_size=0,
            max_size=self._pool_size,
            init=_set_up_with_role if self._login.set_role and not self._is_pooled else _set_up,
            reset=_keep_session_state,
        )

    async def _read_cells_first(self, pool: asyncpg.Pool) -> None:
        """The first cell is added while no instance runs, so this is read once, and after the instance lock was lost."""
        try:
            self._cells = await _read_cells(pool, self._timeout_seconds)
        except BaseException:
            pool.terminate()
            raise

    async def connect(self) -> "asyncpg.Connection[asyncpg.Record]":
        """Open a connection outside the pool, for a lock that outlasts a transaction. The caller closes it."""
        connection = await asyncpg.connect(**self._connect_args(self._login.session_url))
        await notice_lost_client(connection)
        return connection

    def _connect_args(self, url: sa.URL) -> dict[str, Any]:
        arguments = {"timeout": self._timeout_seconds} | connect_arguments(url)
        arguments["command_timeout"] = self._timeout_seconds * 2
        if not is_pooled(url):
            arguments["server_settings"] |= session_settings(self._timeout_seconds)
        return arguments

    async def ping(self) -> None:
        """Raise DatabaseUnavailable unless a transaction can be opened now."""
        async with self.session(None, read_only=True):
            pass

    @property
    def connections_in_use(self) -> int:
        return 0 if self._pool is None else self._pool.get_size() - self._pool.get_idle_size()

    async def close(self) -> None:
        """Wait for open transactions, at most three timeouts, then close every connection."""
        if self._pool is not None:
            with suppress(TimeoutError):  # the pool itself terminates connections that were not returned
                async with asyncio.timeout(self._timeout_seconds * 3):
                    await self._pool.close()
            self._pool = None


async def _read_cells(pool: asyncpg.Pool, timeout_seconds: float) -> CellDirectory | None:
    """A directory, or None if there are no cells."""
    async with pool.acquire(timeout=timeout_seconds) as driver, driver.transaction(readonly=True):
        has_cells = await driver.fetchval(HAVE_BEEN_ADDED) and await driver.fetch(_NAMES.text)
        return CellDirectory(is_on_citus=await driver.fetchval(ARE_ON_CITUS)) if has_cells else None


def _begin(*, read_only: bool, is_snapshot: bool) -> str:
    """The SQL that begins a transaction.

    It names the isolation level, because an operator may have set another default. A statement that follows a lock must see
    what was committed before the lock was free.
    """
    begin = f"BEGIN ISOLATION LEVEL {'REPEATABLE READ' if is_snapshot else 'READ COMMITTED'}"
    return f"{begin} READ ONLY" if read_only else begin


def _set_organization(organization_id: str | None) -> str:
    """The SQL that sets the organization of a transaction. The pattern of ids allows no character that needs quoting."""
    if organization_id is None:
        return ""
    if not _ORGANIZATION.fullmatch(organization_id):
        raise ValueError("not an organization id")
    return f"; SET LOCAL byok.org = '{organization_id}'"


def _beginning(
    organization_id: str | None,
    begin: str,
    first_statement: FixedStatement | None,
    *,
    writes: bool,
    keeps_plans: bool | None,
) -> _Beginning:
    return _Beginning(
        organization_id=organization_id,
        set_organization=_set_organization(organization_id),
        writes=writes,
        begin=begin,
        plans=_PLANS[keeps_plans],
        first="" if first_statement is None else f"; {first_statement.text}",
    )


async def _roll_back_or_terminate(driver: Any, session: Session) -> None:
    try:
        if session.is_open:
            await session.roll_back()
    except BaseException:  # noqa: BLE001  # the caller raises the first error
        _terminate(driver)


def _terminate(driver: Any) -> None:
    """Close a connection at once. If it broke while a statement ran, the pool has taken it back already."""
    with suppress(asyncpg.InterfaceError):
        driver.terminate()


async def _set_up(driver: asyncpg.Connection) -> None:
    # Repositories pass JSON as text and receive it parsed.
    await driver.set_type_codec("jsonb", schema="pg_catalog", encoder=str, decoder=json.loads)


async def _set_up_with_role(driver: asyncpg.Connection) -> None:
    await _set_up(driver)
    # Outside any transaction: inside one, a rollback would restore the login's role.
    try:
        await driver.execute(f"SET ROLE {SERVICE_ROLE}")
    except asyncpg.InsufficientPrivilegeError:
        log.warning("service_role_refused")
        raise DatabaseUnavailable from None


async def _keep_session_state(_driver: asyncpg.Connection) -> None:
    """Do nothing: every session ends its own transaction, and RESET ALL would restore the login's role."""
