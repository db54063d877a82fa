"""Migrates up, compares the schema with the models, then migrates down and up again.

Also refuses statements that Citus does not accept for tables of a cell on a worker, in migrations that may run there.

Runs as the owner that `roles.sql` creates, on a separate embedded PostgreSQL.
"""

import asyncio
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from sqlalchemy.ext.asyncio import create_async_engine

from app.database import migrations
from app.database.cells.directory import HOME
from app.database.embedded.server import embedded_postgres
from tests.support.database.citus_rules import refused_on_citus

# A new cell receives all migrations before it is distributed, and a cell on a worker only those after this one.
_BEFORE_CELLS_ON_WORKERS = "5e17c0a4b9d2"


def _check(connection: sa.Connection) -> None:
    config = migrations._config()
    config.attributes["connection"] = connection
    command.check(config)


async def _check_statements(owner: sa.URL) -> None:
    """Migrate to the newest revision, and raise an error if one of the statements does not work in a cell on a worker."""
    engine = create_async_engine(owner)
    statements: list[str] = []

    def note(*execution: Any) -> None:
        statements.append(execution[2])

    async with engine.begin() as connection:
        sa.event.listen(connection.sync_connection, "before_cursor_execute", note)
        await connection.run_sync(partial(migrations._migrate_cell, cell=HOME, target="head"))
    await engine.dispose()
    refused = {statement: reason for statement in statements if (reason := refused_on_citus(statement))}
    assert not refused, f"these statements do not work in a cell on a worker of Citus: {refused}"


async def check(owner: sa.URL) -> None:
    """Raise an error unless the migrations create the schema that the models describe."""
    await migrations.migrate(owner)
    engine = create_async_engine(owner)
    async with engine.begin() as connection:
        await connection.run_sync(_check)
    await migrations.migrate(owner, "base")
    async with engine.connect() as connection:
        tables = await connection.run_sync(lambda sync: sa.inspect(sync).get_table_names())
    await engine.dispose()
    assert tables == ["alembic_version"], f"the downgrade did not drop: {tables}"
    await migrations.migrate(owner, _BEFORE_CELLS_ON_WORKERS)
    await _check_statements(owner)
    print("Migrations: the schema matches the models; down and up again succeeded.")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        # If root starts it, PostgreSQL runs as another user, who must be able to traverse the directory.
        Path(directory).chmod(0o755)
        with embedded_postgres(Path(directory)) as logins:
            asyncio.run(check(logins.owner))
