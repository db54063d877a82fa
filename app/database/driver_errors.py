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
    asyncpg.exceptions.PostgresSystemError,  # a file or, on Citus, a connection to a node that broke during a COPY
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


# The files of Citus' source that raise an internal error (XX000) when the connection to a node breaks.
_CITUS_CONNECTIONS = frozenset(
    {
        "adaptive_executor.c",
        "connection_management.c",
        "multi_copy.c",
        "placement_connection.c",
        "remote_commands.c",
        "remote_transaction.c",
    }
)


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
    """Whether the connection between the coordinator of Citus and a node broke while a statement ran.

    Citus reports most of these as an internal error; only the file of its source shows the difference.
    """
    return error.server_source_filename in _CITUS_CONNECTIONS


def is_dead(error: BaseException) -> bool:
    """Whether the connection broke, so that another one may work."""
    return isinstance(error, _UNAVAILABLE) and not isinstance(error, _TIMED_OUT)
