"""Brings the schema up to date, as the owner of the tables."""

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

_HOME = Path(__file__).parents[2]
_EXISTS = sa.text("SELECT 1 FROM pg_database WHERE datname = :name")


async def create_database(url: sa.URL) -> None:
    """Create the database that `url` names, if it is not there, by way of the database `postgres`."""
    engine = create_async_engine(url.set(database="postgres"), isolation_level="AUTOCOMMIT")
    try:
        async with engine.connect() as connection:
            if (await connection.execute(_EXISTS, {"name": url.database})).first() is None:
                quoted = engine.dialect.identifier_preparer.quote(str(url.database))
                await connection.execute(sa.text(f"CREATE DATABASE {quoted}"))
    finally:
        await engine.dispose()


async def migrate(url: sa.URL, target: str = "head") -> None:
    """Run the migrations up (or, to an older revision or `base`, down) to `target`."""

    def run(connection: sa.Connection) -> None:
        from alembic import command  # noqa: PLC0415  # heavy, and needed only here

        config = _config()
        config.attributes["connection"] = connection
        (command.downgrade if target == "base" else command.upgrade)(config, target)

    await _on(url, run)


async def current_revision(url: sa.URL) -> str | None:
    """The revision that the database is at; None before the first migration."""

    def read(connection: sa.Connection) -> str | None:
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        found = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
        return None if found is None else str(found)

    revision: str | None = await _on(url, read)
    return revision


def newest_revision() -> str | None:
    """The revision that this version of the service needs."""
    from alembic.script import ScriptDirectory  # noqa: PLC0415  # heavy, and needed only here

    return ScriptDirectory.from_config(_config()).get_current_head()


def _config() -> Any:
    from alembic.config import Config  # noqa: PLC0415  # heavy, and needed only here

    return Config(_HOME / "alembic.ini")


async def _on(url: sa.URL, work: Any) -> Any:
    engine = create_async_engine(url, hide_parameters=True)
    try:
        async with engine.begin() as connection:
            return await connection.run_sync(work)
    finally:
        await engine.dispose()
