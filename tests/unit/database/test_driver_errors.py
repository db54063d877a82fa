"""Which errors of the driver mean that the database is unavailable.

The fields are those that PostgreSQL 15 and Citus 13.0.5 sent while a worker was killed.
"""

import asyncpg
import pytest
from asyncpg.exceptions import PostgresIOError

from app.core.errors import DatabaseUnavailable
from app.database.driver_errors import is_dead, translate_database_errors


def sent(code: str, message: str, file: str, function: str) -> asyncpg.PostgresError:
    fields = {"S": "ERROR", "V": "ERROR", "C": code, "M": message, "F": file, "L": "1", "R": function}
    error: asyncpg.PostgresError = asyncpg.PostgresError.new(fields)
    return error


LOST_NODES = {
    "statement": (
        "XX000",
        "server closed the connection unexpectedly",
        "remote_commands.c",
        "ReportResultError",
    ),
    "statement, in another language": (
        "XX000",
        "Server beendete die Verbindung unerwartet\n\tDas heißt wahrscheinlich, dass der Server abnormal beendete",
        "remote_commands.c",
        "ReportResultError",
    ),
    "connection": (
        "08006",
        "connection to the remote node failed",
        "remote_commands.c",
        "ReportConnectionError",
    ),
    "copy": ("58030", "failed to COPY to shard 102047", "multi_copy.c", "EndRemoteCopy"),
    "commit": (
        "XX000",
        "could not commit transaction for shard 102008 on at least one active node",
        "placement_connection.c",
        "ErrorIfPostCommitFailedShardPlacements",
    ),
}


class TestDatabaseUnavailable:
    @pytest.mark.parametrize("fields", LOST_NODES.values(), ids=LOST_NODES)
    def test_a_node_that_is_lost_is_unavailable_without_the_message(self, fields: tuple[str, ...]) -> None:
        with pytest.raises(DatabaseUnavailable) as caught, translate_database_errors():
            raise sent(*fields)

        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__

    @pytest.mark.parametrize("kind", [PostgresIOError, asyncpg.InternalClientError])
    def test_a_broken_file_or_session_is_unavailable(self, kind: type[Exception]) -> None:
        with pytest.raises(DatabaseUnavailable), translate_database_errors():
            raise kind

    @pytest.mark.parametrize(
        "fields",
        [
            ("XX000", "cache lookup failed", "heapam.c", "lookup"),
            ("XX000", "cache lookup failed", "", "lookup"),
            # Raised on a node, and repeated by the coordinator.
            ("XX000", "cache lookup failed", "remote_commands.c", "ReportResultError"),
            ("XX001", "invalid page in block 1", "remote_commands.c", "ReportResultError"),
            ("XX002", "index is corrupted", "nbtree.c", "check"),
            ("58P01", "could not open file", "fd.c", "open"),
        ],
    )
    def test_another_fault_is_not_hidden(self, fields: tuple[str, ...]) -> None:
        error = sent(*fields)

        with pytest.raises(type(error)), translate_database_errors():
            raise error

    def test_a_session_that_ended_is_replaced(self) -> None:
        assert is_dead(asyncpg.InternalClientError())
        assert not is_dead(TimeoutError())
