"""Entry point of Alembic: runs the migrations as the owner of the tables.

`app.database.migrations` passes a connection. The alembic command line uses the URL in
BYOK_DATABASE__MIGRATION_URL or, if that is not set, in BYOK_DATABASE__URL.
"""

import asyncio
import importlib
import pkgutil
import re

import sqlalchemy as sa
from alembic import context

import app
from app.database.columns import metadata
from app.database.connections import create_engine
from app.secret_store import binding
from app.settings.environment import load_settings

for _module in pkgutil.walk_packages(app.__path__, "app."):
    if _module.name.endswith((".tables", ".table")):
        importlib.import_module(_module.name)

_TABLES = [metadata, binding.metadata]


def _is_described(name: str | None, kind: str, _parents: object) -> bool:
    """Whether the models describe this object. They describe the partitioned table, not its monthly partitions."""
    return kind != "table" or re.fullmatch(r"usage_(event|object)_y\d{4}m\d{2}", name or "") is None


def _run(connection: sa.Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=_TABLES,
        compare_type=True,
        include_name=_is_described,
        cell=context.config.attributes.get("cell"),
    )
    with context.begin_transaction():
        # Only one of several instances that start at the same time may migrate.
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('byok.migrations'))"))
        context.run_migrations()


async def _connect_and_run() -> None:
    database = load_settings().database
    url = database.migration_url or database.direct_url or database.url
    if url is None:
        raise SystemExit(
            "BYOK_DATABASE__MIGRATION_URL is not set. Set it to the URL of the database to migrate."
        )
    engine = create_engine(url.for_sqlalchemy())
    async with engine.connect() as connection:
        await connection.run_sync(_run)
        await connection.commit()
    await engine.dispose()


if (passed_connection := context.config.attributes.get("connection")) is not None:
    _run(passed_connection)
else:
    asyncio.run(_connect_and_run())
