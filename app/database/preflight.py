"""Reads facts about the database that are checked before the service uses it: privileges, version, clock."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg
import sqlalchemy as sa

from app.database.connections import read_only_transaction

OLDEST_POSTGRESQL = 150000  # as server_version_num
ENCODING = "UTF8"
_POLL_SECONDS = 0.05

_PRIVILEGES = """
    SELECT rolsuper AS superuser, rolbypassrls AS bypass_rls,
           EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE n.nspname = 'public' AND c.relname = 'provider_credential'
                   AND pg_has_role(session_user, c.relowner, 'MEMBER')) AS table_owner
    FROM pg_roles WHERE rolname = session_user
"""
_MEMBERSHIP = """
    SELECT coalesce(bool_or(pg_has_role(session_user, oid, 'MEMBER')), false)
    FROM pg_roles WHERE rolname = 'byok_service'
"""
_VERSION = "SELECT current_setting('server_version_num')::int"
_ENCODING = "SELECT getdatabaseencoding()"
_ACCEPTS_WRITES = (
    "SELECT NOT pg_is_in_recovery() AND current_setting('default_transaction_read_only') = 'off'"
)
_TIME = "SELECT clock_timestamp()"
# A physical replica has the identifier of its primary. The position is that of the primary, or what a replica has replayed.
_SERVER = """
    SELECT system_identifier AS identifier, pg_is_in_recovery() AS is_replica,
           CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END
           - CAST('0/0' AS pg_lsn) AS position
    FROM pg_control_system()
"""


DATABASE_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    UnicodeError,  # a host name of PGHOST that cannot be looked up
    sa.exc.SQLAlchemyError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)


async def rls_bypasses(url: sa.URL) -> Sequence[str]:
    """The privileges with which this login could bypass row-level security. Must be empty."""
    row = await _row(url, _PRIVILEGES)
    texts = {"superuser": "is superuser", "bypass_rls": "has BYPASSRLS", "table_owner": "owns the tables"}
    return [text for name, text in texts.items() if row[name]]


async def is_service_member(url: sa.URL) -> bool:
    """Whether this login has the privileges of `byok_service`, or can take that role."""
    found: bool = (await _row(url, _MEMBERSHIP))[0]
    return found


async def server_version(url: sa.URL) -> int:
    """The server's version as in `server_version_num`: 150004 is 15.4."""
    version: int = (await _row(url, _VERSION))[0]
    return version


async def database_encoding(url: sa.URL) -> str:
    """The encoding of the database, by PostgreSQL's name for it. Another one than `ENCODING` cannot store every text."""
    encoding: str = (await _row(url, _ENCODING))[0]
    return encoding


async def accepts_writes(url: sa.URL) -> bool:
    """Whether the server is a primary on which this login may write."""
    found: bool = (await _row(url, _ACCEPTS_WRITES))[0]
    return found


async def server_time(url: sa.URL) -> datetime:
    """The time of the database's clock."""
    time: datetime = (await _row(url, _TIME))[0]
    return time


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaFacts:
    """The server of `BYOK_DATABASE__REPORTS_URL`, compared with the primary, whose log has reached `position`."""

    is_same_cluster: bool
    is_replica: bool
    bytes_behind: int
    position: int


async def compare_replica(primary: sa.URL, replica: sa.URL) -> ReplicaFacts:
    """Whether the second server is a physical replica of the first, and how much of its log is not replayed there."""
    of_primary, of_replica = await _row(primary, _SERVER), await _row(replica, _SERVER)
    return ReplicaFacts(
        is_same_cluster=of_primary["identifier"] == of_replica["identifier"],
        is_replica=of_replica["is_replica"],
        bytes_behind=max(0, int(of_primary["position"] - of_replica["position"])),
        position=int(of_primary["position"]),
    )


async def has_replayed(position: int, replica: sa.URL, *, seconds: float) -> bool:
    """Whether a replica shows what its primary had at a position, or does within some seconds."""
    clock = asyncio.get_running_loop().time
    ends_at = clock() + seconds
    while int((await _row(replica, _SERVER))["position"]) < position:
        if clock() > ends_at:
            return False
        await asyncio.sleep(_POLL_SECONDS)
    return True


async def _row(url: sa.URL, statement: str) -> Any:
    async with read_only_transaction(url) as connection:
        return await connection.fetchrow(statement)
