"""Which errors of the driver mean that the database is unavailable."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import structlog

from app.core.errors import DatabaseUnavailable

log = structlog.get_logger("byok.database")

# Errors that mean: the database is at fault, not the statement. The work may be repeated.
_UNAVAILABLE = (
    OSError,  # includes TimeoutError
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the server ended the session between two statements
    asyncpg.PostgresConnectionError,
    asyncpg.exceptions.InsufficientResourcesError,
    asyncpg.exceptions.OperatorInterventionError,  # shutting down, starting up, statement timeout
    asyncpg.exceptions.LockNotAvailableError,
    asyncpg.exceptions.DeadlockDetectedError,
    asyncpg.exceptions.SerializationError,  # on a standby: replication removed rows that the statement might need
    asyncpg.exceptions.ReadOnlySQLTransactionError,  # after a failover the connection leads to a standby
    asyncpg.exceptions.InvalidAuthorizationSpecificationError,
    asyncpg.exceptions.IdleInTransactionSessionTimeoutError,
    asyncpg.exceptions.InvalidCatalogNameError,
    asyncpg.exceptions.TargetServerAttributeNotMatched,  # during a failover, no host may be the primary
    asyncpg.exceptions.PostgresIOError,  # of a file or, on Citus, of the connection to a node during a COPY
    asyncpg.exceptions.ObjectNotInPrerequisiteStateError,  # the operator stopped new connections to the database
)
# Of these, the ones after which the connection still works: a wait timed out or was cancelled.
_TIMED_OUT = (
    TimeoutError,
    asyncpg.exceptions.QueryCanceledError,
    asyncpg.exceptions.LockNotAvailableError,
    asyncpg.exceptions.DeadlockDetectedError,
    asyncpg.exceptions.SerializationError,
)

# Citus reports most lost nodes as internal errors (XX000). Those from the first two files of its source always mean that. The
# third file also repeats errors that a node reports itself, so only a text of libpq shows that the connection broke. The text is in
# the language of the coordinator's `lc_messages`. In every language, the most frequent one has more lines, which begin with a tab.
_CITUS_COMMIT = frozenset({"placement_connection.c", "remote_transaction.c"})
_CITUS_STATEMENT = "remote_commands.c"
_LIBPQ = (
    *("server closed the connection", "could not receive data from server", "could not send data to server"),
    *("no connection to the server", "connection not open", "SSL SYSCALL error"),
)
_MORE_LINES = "\n\t"


@contextmanager
def translate_database_errors() -> Iterator[None]:
    """Raise DatabaseUnavailable in place of every driver error that means so, without its cause.

    Driver messages contain hosts, users and statements, so they must not leave this module.
    """
    try:
        yield
    except (*_UNAVAILABLE, asyncpg.InternalServerError) as error:
        if isinstance(error, asyncpg.InternalServerError) and not _is_lost_node(error):
            raise
        log.warning("database_unavailable", error=type(error).__name__)
        raise DatabaseUnavailable from None


def _is_lost_node(error: asyncpg.InternalServerError) -> bool:
    """Whether the connection between the coordinator of Citus and a node broke. Its other internal errors are faults."""
    if error.sqlstate != asyncpg.InternalServerError.sqlstate:
        return False  # damaged data or indexes
    file, text = error.server_source_filename, str(error.args[0])  # without the details
    if file == _CITUS_STATEMENT:
        return text.startswith(_LIBPQ) or _MORE_LINES in text
    return file in _CITUS_COMMIT


def is_dead(error: BaseException) -> bool:
    """Whether the connection broke, so that another one may work."""
    return isinstance(error, _UNAVAILABLE) and not isinstance(error, _TIMED_OUT)
