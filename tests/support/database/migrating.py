"""Downgrades a database, as a test of a migration needs it."""

import sqlalchemy as sa
from alembic import command
from sqlalchemy.ext.asyncio import create_async_engine

from app.database import migrations


async def downgrade(owner: sa.URL, target: str) -> None:
    """Downgrade to a revision; `REVISION-1` is the one before it."""

    def run(connection: sa.Connection) -> None:
        config = migrations._config()
        config.attributes["connection"] = connection
        command.downgrade(config, target)

    engine = create_async_engine(owner)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(run)
    finally:
        await engine.dispose()
