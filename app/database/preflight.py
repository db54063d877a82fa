"""What must be true of the database before the service may use it: schema, and a login without powers."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import asyncpg
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

OLDEST_POSTGRESQL = 150000  # as server_version_num

_POWERS = sa.text("""
    SELECT rolsuper AS superuser, rolbypassrls AS bypass_rls,
           EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE n.nspname = 'public' AND c.relname = 'provider_credential'
                   AND pg_has_role(session_user, c.relowner, 'MEMBER')) AS table_owner
    FROM pg_roles WHERE rolname = session_user
""")
_VERSION = sa.text("SELECT current_setting('server_version_num')::int AS version")
_TIME = sa.text("SELECT clock_timestamp() AS time")


DATABASE_ERRORS: tuple[type[Exception], ...] = (OSError, sa.exc.SQLAlchemyError, asyncpg.PostgresError)


async def login_powers(url: sa.URL) -> Sequence[str]:
    """Why this login could get around row-level security; empty is good."""
    row = await _one(url, _POWERS)
    names = {"superuser": "is superuser", "bypass_rls": "has BYPASSRLS", "table_owner": "owns the tables"}
    return [words for name, words in names.items() if getattr(row, name)]


async def server_version(url: sa.URL) -> int:
    """As in server_version_num: 150004 is 15.4."""
    version: int = (await _one(url, _VERSION)).version
    return version


async def server_time(url: sa.URL) -> datetime:
    """What time the database takes it to be."""
    time: datetime = (await _one(url, _TIME)).time
    return time


async def _one(url: sa.URL, statement: sa.TextClause) -> sa.Row[Any]:
    engine = create_async_engine(url, hide_parameters=True)
    try:
        async with engine.connect() as connection:
            return (await connection.execute(statement)).one()
    finally:
        await engine.dispose()
