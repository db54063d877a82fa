"""Migrations up, compared with the models, down and up again, on an embedded PostgreSQL of their own."""

import asyncio
import tempfile
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from sqlalchemy.ext.asyncio import create_async_engine

from app.database import migrations
from app.database.embedded_postgres import embedded_postgres


def _check(connection: sa.Connection) -> None:
    config = migrations._config()
    config.attributes["connection"] = connection
    command.check(config)


async def check(url: sa.URL) -> None:
    """Raise unless the schema that the migrations make is the one that the models describe."""
    await migrations.create_database(url)
    await migrations.migrate(url)
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(_check)
    await migrations.migrate(url, "base")
    async with engine.connect() as connection:
        tables = await connection.run_sync(lambda sync: sa.inspect(sync).get_table_names())
    await engine.dispose()
    assert tables == ["alembic_version"], f"left behind by the downgrade: {tables}"
    await migrations.migrate(url)
    print("Migrations: up, equal to the models, down, up again.")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        # PostgreSQL runs as another user where root starts it.
        Path(directory).chmod(0o755)
        with embedded_postgres(Path(directory)) as owner:
            asyncio.run(check(owner))
