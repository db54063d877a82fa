"""Alembic's way in: runs the migrations as the owner of the tables.

`app.database.migrations` hands over a connection; from the alembic command line the URL comes from
BYOK_DATABASE__MIGRATION_URL, else BYOK_DATABASE__URL.
"""

import asyncio
import importlib
import pkgutil
import re

import sqlalchemy as sa
from alembic import context
from sqlalchemy.ext.asyncio import create_async_engine

import app
from app.database.columns import metadata
from app.secret_store import binding
from app.settings.environment import load_settings

for _module in pkgutil.walk_packages(app.__path__, "app."):
    if _module.name.endswith((".tables", ".table")):
        importlib.import_module(_module.name)

_TABLES = [metadata, binding.metadata]


def _is_described(name: str | None, kind: str, _parents: object) -> bool:
    """Partitions come and go with the months; the models describe their parent."""
    return kind != "table" or re.fullmatch(r"usage_event_y\d{4}m\d{2}", name or "") is None


def _run(connection: sa.Connection) -> None:
    context.configure(
        connection=connection, target_metadata=_TABLES, compare_type=True, include_name=_is_described
    )
    with context.begin_transaction():
        # One migrator at a time, whatever the number of instances that start at once.
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('byok.migrations'))"))
        context.run_migrations()


async def _connect_and_run() -> None:
    database = load_settings().database
    url = database.migration_url or database.url
    if url is None:
        raise SystemExit("BYOK_DATABASE__MIGRATION_URL: set it to the database to migrate")
    engine = create_async_engine(url)
    async with engine.connect() as connection:
        await connection.run_sync(_run)
        await connection.commit()
    await engine.dispose()


if (given := context.config.attributes.get("connection")) is not None:
    _run(given)
else:
    asyncio.run(_connect_and_run())
