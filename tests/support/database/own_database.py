"""Databases of tests: a server with the roles of production, and databases that the owner's login has migrated."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from app.database import migrations
from app.database.embedded.cluster import program
from app.database.embedded.server import embedded_postgres
from app.database.engine import DatabaseLogin
from app.database.roles import OWNER, SERVICE_LOGIN, run_roles_script

PASSWORD = "not-a-secret"


@dataclass(frozen=True, kw_only=True)
class DatabaseRoles:
    """One database, with the URLs of its roles.

    The owner migrates. The service is only a member of `byok_service`. The superuser sees the rows of all organizations,
    which tests need to look at results.
    """

    superuser: sa.URL
    owner: sa.URL
    service: sa.URL

    @property
    def name(self) -> str:
        return str(self.owner.database)

    @property
    def login(self) -> DatabaseLogin:
        return DatabaseLogin(url=self.service, set_role=False)

    @property
    def settings(self) -> dict[str, str]:
        """Settings of a service on this database, without the prefix."""
        return {"DATABASE__URL": _text(self.service), "DATABASE__MIGRATION_URL": _text(self.owner)}

    def of_database(self, name: str) -> "DatabaseRoles":
        """The same logins on another database of this server."""
        return DatabaseRoles(
            superuser=self.superuser.set(database=name),
            owner=self.owner.set(database=name),
            service=self.service.set(database=name),
        )


def _text(url: sa.URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


@contextmanager
def embedded_server(data_dir: Path) -> Iterator[DatabaseRoles]:
    """An embedded PostgreSQL."""
    with embedded_postgres(data_dir) as logins:
        yield DatabaseRoles(superuser=logins.superuser, owner=logins.owner, service=logins.service)


def configured_server(superuser: str) -> DatabaseRoles:
    """The server of a superuser's URL. `new_database` creates its roles."""
    url = sa.make_url(superuser).set(drivername="postgresql+asyncpg")
    owner = url.set(username=OWNER, password=PASSWORD)
    return DatabaseRoles(superuser=url, owner=owner, service=owner.set(username=SERVICE_LOGIN))


async def create_database(server: DatabaseRoles, name: str) -> DatabaseRoles:
    """Create a database as operators do: with `roles.sql`."""
    password = server.owner.password or ""
    await asyncio.to_thread(
        run_roles_script,
        program("psql"),
        server.superuser,
        database=name,
        owner_password=password,
        service_password=password,
    )
    return server.of_database(name)


async def drop_database(database: DatabaseRoles) -> None:
    """Drop a database even if it is still in use."""
    await run_as_superuser(database.of_database("postgres"), f"DROP DATABASE {database.name} WITH (FORCE)")


async def run_as_superuser(database: DatabaseRoles, *statements: str) -> None:
    """Run statements one by one, each in its own transaction."""
    engine = create_async_engine(database.superuser, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        for statement in statements:
            await connection.execute(sa.text(statement))
    await engine.dispose()


@asynccontextmanager
async def copied_database(template: DatabaseRoles) -> AsyncIterator[DatabaseRoles]:
    """Copy a migrated database, which is faster than to migrate another one, and drop the copy on leaving.

    Nothing may be connected to the template.
    """
    name = f"byok_test_{uuid4().hex[:12]}"
    await run_as_superuser(
        template.of_database("postgres"),
        f"CREATE DATABASE {name} TEMPLATE {template.name} OWNER {OWNER}",
        f"REVOKE ALL ON DATABASE {name} FROM PUBLIC",
        f"GRANT CONNECT ON DATABASE {name} TO byok_service",
    )
    copy = template.of_database(name)
    try:
        yield copy
    finally:
        await drop_database(copy)


@asynccontextmanager
async def new_database(server: DatabaseRoles, revision: str = "head") -> AsyncIterator[DatabaseRoles]:
    """Create a database, migrate it to a revision as its owner, and drop it on leaving."""
    database = await create_database(server, f"byok_test_{uuid4().hex[:12]}")
    try:
        await migrations.migrate(database.owner, revision)
        yield database
    finally:
        await drop_database(database)
