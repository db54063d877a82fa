"""A primary and a streaming replica with the service's database, and pools of connections to both."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from app.database.engine import Database, DatabaseLogin
from tests.support.database.bare_servers import BareServer, bare_server, installations, replica_of
from tests.support.database.own_database import DatabaseRoles, configured_server, new_database
from tests.support.polling import until


@dataclass(frozen=True, kw_only=True)
class Replication:
    """Two servers. The replica has the roles and databases of the primary."""

    primary: BareServer
    replica: BareServer

    async def run(self, server: BareServer, statement: str, database: str = "postgres") -> list[Any]:
        """Run a statement as the superuser, outside a transaction."""
        engine = create_async_engine(server.superuser.set(database=database), isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            found = await connection.execute(sa.text(statement))
            rows = list(found) if found.returns_rows else []
        await engine.dispose()
        return rows

    async def replay(self, *, is_paused: bool) -> None:
        """Stop or continue what the replica replays. It still receives and keeps what the primary sends."""
        await self.run(self.replica, f"SELECT pg_wal_replay_{'pause' if is_paused else 'resume'}()")
        state = "paused" if is_paused else "not paused"
        await until(
            lambda: self.run(self.replica, "SELECT pg_get_wal_replay_pause_state()"),
            lambda found: found[0][0] == state,
        )

    async def require_confirmation(self) -> None:
        """Let commits of the primary wait for the replica, as docs/how-to/pooler-and-replica.md says."""
        await self.run(self.primary, "ALTER SYSTEM SET synchronous_standby_names = 'replica'")
        await self.run(self.primary, "SELECT pg_reload_conf()")

    def on_replica(self, url: sa.URL) -> sa.URL:
        return url.set(port=self.replica.superuser.port)


@contextmanager
def replication() -> Iterator[Replication]:
    """Debian's PostgreSQL or, if it is not installed, the oldest one that is."""
    with bare_server(next(iter(installations().values()))) as primary, replica_of(primary) as replica:
        yield Replication(primary=primary, replica=replica)


def server_roles(server: BareServer) -> DatabaseRoles:
    return configured_server(server.superuser.render_as_string(hide_password=False))


@dataclass(frozen=True, kw_only=True)
class ReplicatedDatabase:
    """A migrated database on both servers."""

    servers: Replication
    roles: DatabaseRoles
    primary: Database
    replica: Database


@asynccontextmanager
async def replicated_database(servers: Replication) -> AsyncIterator[ReplicatedDatabase]:
    async with new_database(server_roles(servers.primary)) as roles:
        primary = Database(roles.login)
        replica = Database(DatabaseLogin(url=servers.on_replica(roles.service), set_role=False))
        try:
            yield ReplicatedDatabase(servers=servers, roles=roles, primary=primary, replica=replica)
        finally:
            await replica.close()
            await primary.close()
