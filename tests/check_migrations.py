"""Migrates up, compares the schema with the models, then migrates down and up again.

Runs as the owner that `roles.sql` creates, on a separate embedded PostgreSQL.
"""

import asyncio
import tempfile
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from sqlalchemy.ext.asyncio import create_async_engine

from app.database import migrations
from app.database.embedded.server import embedded_postgres


def _check(connection: sa.Connection) -> None:
    config = migrations._config()
    config.attributes["connection"] = connection
    command.check(config)


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
    await migrations.migrate(owner)
    print("Migrations: the schema matches the models; down and up again succeeded.")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        # If root starts it, PostgreSQL runs as another user, who must be able to traverse the directory.
        Path(directory).chmod(0o755)
        with embedded_postgres(Path(directory)) as logins:
            asyncio.run(check(logins.owner))
