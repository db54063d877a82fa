"""Which errors of the driver mean that the database is unavailable.

The fields are those that PostgreSQL 15 and Citus 13.0.5 sent while a worker was killed.
"""

import asyncpg
import pytest
from asyncpg.exceptions import PostgresIOError

from app.core.errors import DatabaseUnavailable
from app.database.driver_errors import translate_database_errors


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

    def test_a_file_that_cannot_be_written_is_unavailable(self) -> None:
        with pytest.raises(DatabaseUnavailable), translate_database_errors():
            raise PostgresIOError

    @pytest.mark.parametrize("file", ["heapam.c", "ruleutils.c", ""])
    def test_another_internal_error_is_a_fault_of_the_statement(self, file: str) -> None:
        with pytest.raises(asyncpg.InternalServerError), translate_database_errors():
            raise sent("XX000", "cache lookup failed", file, "lookup")
