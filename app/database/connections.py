"""Opens connections with the parameters of a database URL, and says in one sentence why one failed.

A pooler in transaction mode runs each transaction in any of its sessions, so nothing may stay in a session: the
settings, and the role if the login has to switch to it, are set with SET LOCAL in the round trip that begins the
transaction. The advisory locks that belong to a session use a connection past the pooler (`app.database.instance_lock`).
"""

import socket
import ssl
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import asyncpg
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

from app.database.url_parameters import POOLER

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

_DIALECT = PGDialect_asyncpg()  # type: ignore[no-untyped-call]
# Parameters of the URL that go to the server when a session begins.
_SERVER_SETTINGS = ("application_name", "options")
# Parameters of SQLAlchemy and of this service, which the driver rejects.
_NOT_OF_THE_DRIVER = (
    "prepared_statement_cache_size",
    "prepared_statement_name_func",
    "async_fallback",
    POOLER,
)
_APPLICATION_NAME = "byok"
_CONNECT_SECONDS = 15
SERVICE_ROLE = "byok_service"
# An operator may have set other defaults for the server, the database or the login.
_OWN_DEFAULTS = {"default_transaction_isolation": "read committed", "search_path": "public"}
# If the machine of a process vanishes, the server ends its session and frees its locks. By default the server's kernel looks
# for a silent client only after two hours.
_KEEPALIVES = {"tcp_keepalives_idle": "60s", "tcp_keepalives_interval": "10s", "tcp_keepalives_count": "3"}
# The same for a command that is suspended in the middle of a transaction.
_OF_COMMANDS = _OWN_DEFAULTS | _KEEPALIVES | {"idle_in_transaction_session_timeout": "60s"}
_ROUNDS = 3
# From here on, the numbers are chosen when a server is built or a type is created.
_FIRST_CHOSEN_OID = 10000

CHECK_LOGIN = "check the host, the port, the database name and the login, and that the server is running"
# The first match wins.
_SENTENCES: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    (UnicodeError, "the host name of the database is not valid; check PGHOST and the host"),
    (socket.gaierror, "the host name of the database cannot be resolved; check the host and DNS"),
    (
        ssl.SSLCertVerificationError,
        "the certificate of the database server is not trusted; set PGSSLROOTCERT to its CA, and the host to the name in it",
    ),
    (ssl.SSLError, "the TLS connection to the database failed; check sslmode and PGSSLROOTCERT"),
    (
        ConnectionRefusedError,
        "no database server accepts connections there; check the host and the port, and that the server is running",
    ),
    (
        TimeoutError,
        "the database does not respond before the timeout; check the host, the port and firewalls",
    ),
    (
        FileNotFoundError,
        "a socket, certificate or key file does not exist; check the host and the PGSSL variables, which name files",
    ),
    (
        PermissionError,
        "a socket, certificate or key file may not be read; check its mode and the PGSSL variables",
    ),
    (asyncpg.InvalidPasswordError, "the database server refused the password; check the login"),
    (
        asyncpg.InvalidAuthorizationSpecificationError,
        "the database server refused the login; check the user, sslmode and the server's pg_hba.conf",
    ),
    (
        asyncpg.InvalidCatalogNameError,
        "the database does not exist on this server; check its name, or create it",
    ),
    (
        asyncpg.InsufficientPrivilegeError,
        "the login lacks a privilege; see docs/how-to/deploy.md for the roles",
    ),
    (
        asyncpg.TooManyConnectionsError,
        "the database server has no free connection; lower BYOK_DATABASE__POOL_SIZE",
    ),
    (asyncpg.CannotConnectNowError, "the database server is starting or stopping; try again"),
    (
        asyncpg.exceptions.TargetServerAttributeNotMatched,
        "none of the hosts has the role that target_session_attrs demands",
    ),
    (
        asyncpg.exceptions.ClientConfigurationError,
        "the driver refused the TLS settings; sslmode=verify-ca and verify-full need PGSSLROOTCERT",
    ),
    (
        (asyncpg.ProtocolViolationError, asyncpg.FeatureNotSupportedError),
        "the server or pooler refused a parameter of the connection; set pgbouncer=true for a pooler, or remove options",
    ),
    (
        (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError),
        f"the connection to the database failed; {CHECK_LOGIN}",
    ),
)


class _Prepared(NamedTuple):
    name: str


class _Connection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """A connection that knows the types which an earlier one of this process has looked up.

    asyncpg asks the server for the element types of arrays, in each session again. In a new session the first time takes
    10 ms, and each further type 3 ms, in which a request waits. A new connection is opened when many requests meet.
    """

    # What a server said about built-in types. Their numbers are the same in all versions.
    _known: ClassVar[dict[int, list[Any]]] = {}

    async def _introspect_types(
        self,
        typeoids: Collection[int],
        timeout: float | None,  # noqa: ASYNC109  # as asyncpg calls it
    ) -> tuple[Any, Any]:
        if all(oid in self._known for oid in typeoids):
            # With a name, the driver need not prepare the caller's statement again.
            return [it for oid in typeoids for it in self._known[oid]], _Prepared(name="known")
        found: tuple[list[Any], Any] = await super()._introspect_types(typeoids, timeout)
        if max(*typeoids, *(it["oid"] for it in found[0])) < _FIRST_CHOSEN_OID:
            self._known.update(dict.fromkeys(typeoids, found[0]))
        return found


def session_settings(timeout_seconds: float) -> Mapping[str, str]:
    """The settings by name. The timeout limits one statement and the wait for one lock."""
    milliseconds = str(int(timeout_seconds * 1000))
    return {
        "jit": "off",  # every statement here is short
        **_OWN_DEFAULTS,
        # A wide report may take as much of the server as any other statement, and not three times as much.
        "max_parallel_workers_per_gather": "0",
        "statement_timeout": milliseconds,
        "lock_timeout": milliseconds,
        "idle_in_transaction_session_timeout": "30000",
    }


def for_one_transaction(settings: Mapping[str, str], *, set_role: bool) -> str:
    """Statements to append to BEGIN, which hold until the transaction ends."""
    statements = [f"SET LOCAL {name} = '{value}'" for name, value in settings.items()]
    if set_role:
        statements.insert(0, f"SET LOCAL ROLE {SERVICE_ROLE}")
    return "".join(f"; {statement}" for statement in statements)


def is_pooled(url: sa.URL) -> bool:
    """Whether a pooler in transaction mode is between, according to the URL."""
    return url.query.get(POOLER) == "true"


def connect_arguments(url: sa.URL) -> dict[str, Any]:
    """The arguments of asyncpg's `connect`."""
    _, arguments = _DIALECT.create_connect_args(url)  # type: ignore[no-untyped-call]
    arguments = {name: value for name, value in arguments.items() if name not in _NOT_OF_THE_DRIVER}
    settings = {name: arguments.pop(name) for name in _SERVER_SETTINGS if name in arguments}
    arguments["server_settings"] = {"application_name": _APPLICATION_NAME} | settings
    # As in PostgreSQL's own library, 0 means no timeout of the URL's own.
    if seconds := int(arguments.pop("connect_timeout", 0)):
        arguments["timeout"] = seconds
    if is_pooled(url):
        # Prepared statements belong to a session. Without a cache, the driver uses none that outlasts a transaction.
        arguments.setdefault("statement_cache_size", "0")
    if "statement_cache_size" in arguments:
        arguments["statement_cache_size"] = int(arguments["statement_cache_size"])
    if arguments.pop("sslnegotiation", "postgres") == "direct":
        arguments["direct_tls"] = True
    return arguments | {"connection_class": _Connection}


async def connect(url: sa.URL) -> "asyncpg.Connection[asyncpg.Record]":
    """Open one connection for a command. The caller closes it."""
    connection = await asyncpg.connect(**{"timeout": _CONNECT_SECONDS, **connect_arguments(url)})
    await _set(connection, _OF_COMMANDS)
    return connection


async def notice_lost_client(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Let the server end this session, and free its locks, within 90 seconds after the machine of this process vanished.

    If that fails, the connection is closed.
    """
    await _set(connection, _KEEPALIVES)


async def _set(connection: "asyncpg.Connection[asyncpg.Record]", settings: Mapping[str, str]) -> None:
    try:
        await connection.execute("; ".join(f"SET {name} = '{value}'" for name, value in settings.items()))
    except BaseException:
        connection.terminate()
        raise


@asynccontextmanager
async def read_only_transaction(url: sa.URL) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """Open one connection and a transaction on it. It works the same through a pooler in any mode."""
    async with _without_statement_cache(url) as connection, _transaction(connection):
        yield connection


async def shares_sessions(url: sa.URL) -> bool:
    """Whether two connections use the same session of the server: a pooler in transaction mode is between.

    Asks each of them a few times which session it is in. PgBouncer by default gives the session that was used last.
    """
    async with _without_statement_cache(url) as one, _without_statement_cache(url) as other:
        sessions = [[await _session_of(connection) for connection in (one, other)] for _ in range(_ROUNDS)]
    seen_by_one, seen_by_other = ({pair[side] for pair in sessions} for side in (0, 1))
    return bool(seen_by_one & seen_by_other) or len(seen_by_one) > 1 or len(seen_by_other) > 1


async def check_session_settings(url: sa.URL) -> None:
    """Begin a session as the service does. A pooler may refuse its parameters with ProtocolViolationError."""
    arguments = connect_arguments(url)
    arguments["server_settings"] |= session_settings(_CONNECT_SECONDS)
    await (await asyncpg.connect(**{"timeout": _CONNECT_SECONDS, **arguments})).close()


async def _session_of(connection: "asyncpg.Connection[asyncpg.Record]") -> str:
    async with _transaction(connection):
        # The number could also be that of a process on another of several hosts.
        found: str = await connection.fetchval(
            "SELECT concat(pid, ' ', backend_start) FROM pg_stat_activity WHERE pid = pg_backend_pid()"
        )
    return found


def _transaction(connection: "asyncpg.Connection[asyncpg.Record]") -> Any:
    """A transaction that reads. A standby has none that is serializable, which may be the operator's default."""
    return connection.transaction(isolation="read_committed", readonly=True)


@asynccontextmanager
async def _without_statement_cache(url: sa.URL) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    arguments = connect_arguments(url) | {"statement_cache_size": 0}
    connection = await asyncpg.connect(**{"timeout": _CONNECT_SECONDS, **arguments})
    try:
        yield connection
    finally:
        await connection.close()


def create_engine(url: sa.URL, **options: Any) -> "AsyncEngine":
    """An engine of SQLAlchemy, for migrations."""
    from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415  # loads the ORM, which only migrations need

    return create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: connect(url), hide_parameters=True, **options
    )


def describe_failure(error: BaseException) -> str:
    """Why the database cannot be used, and what to check. Never quotes the error, which may name hosts and users."""
    chain = list(_chain(error))
    for kinds, sentence in _SENTENCES:
        if any(isinstance(link, kinds) for link in chain):
            return sentence
    return f"the database reported an error; {CHECK_LOGIN}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes: SQLAlchemy wraps the driver's errors."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        if isinstance(link, BaseExceptionGroup):
            for inner in link.exceptions:
                yield from _chain(inner)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
