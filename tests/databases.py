"""Databases that a test has to itself, because it looks at everybody's work in them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from app.database import migrations


@asynccontextmanager
async def new_database(server_url: sa.URL) -> AsyncIterator[sa.URL]:
    """The owner's URL of a database built by the migrations; dropped in the end, whoever is still in it."""
    url = server_url.set(database=f"byok_test_{uuid4().hex[:12]}")
    await migrations.create_database(url)
    try:
        await migrations.migrate(url)
        yield url
    finally:
        engine = create_async_engine(url.set(database="postgres"), isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            await connection.execute(sa.text(f"DROP DATABASE {url.database} WITH (FORCE)"))
        await engine.dispose()
