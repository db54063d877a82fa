"""A database with cells, and the application on it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import asyncpg
import httpx

from app.core.services import Services
from app.database.cells.moves import move_organization
from app.database.connections import connect
from tests.support.database.own_database import DatabaseRoles, run_as_superuser
from tests.support.polling import until
from tests.support.tenant import Tenant


@dataclass(frozen=True, kw_only=True)
class Celled:
    """A database with the cells `public`, `cell_1` and `cell_2`, and the application on it."""

    roles: DatabaseRoles
    services: Services
    http: httpx.AsyncClient
    token: str

    def tenant(self) -> Tenant:
        return Tenant(http=self.http, organization=f"org_{uuid4().hex[:16]}", token=self.token)

    async def rows(self, statement: str, *values: object) -> list[asyncpg.Record]:
        connection = await connect(self.roles.superuser)
        try:
            found: list[asyncpg.Record] = await connection.fetch(statement, *values)
        finally:
            await connection.close()
        return found

    async def cell_of(self, tenant: Tenant) -> str | None:
        found = await self.rows(
            "SELECT cell FROM cells.organization_cell WHERE organization_id = $1", tenant.organization
        )
        return found[0]["cell"] if found else None

    async def count(self, cell: str, table: str, tenant: Tenant) -> int:
        found = await self.rows(
            f"SELECT count(*) AS n FROM {cell}.{table} WHERE organization_id = $1", tenant.organization
        )
        return int(found[0]["n"])

    async def move(
        self, tenant: Tenant, cell: str, progress: Callable[[str], object] = lambda _: None
    ) -> Any:
        return await move_organization(self.roles.owner, tenant.organization, cell, progress)

    @asynccontextmanager
    async def transaction(self, *statements: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
        """A superuser's transaction in which these statements have run."""
        connection = await connect(self.roles.superuser)
        try:
            async with connection.transaction():
                for statement in statements:
                    await connection.execute(statement)
                yield connection
        finally:
            await connection.close()

    async def until_waits(self) -> None:
        """Wait until a statement of this database's owner waits for a lock."""
        await until(
            lambda: self.rows(
                "SELECT FROM pg_stat_activity WHERE datname = current_database() AND usename = 'byok_owner'"
                " AND wait_event_type = 'Lock'"
            ),
            bool,
        )

    async def add_calls(
        self, tenant: Tenant, cell: str, *, at: str = "now() - interval '10 minutes'"
    ) -> None:
        """Add an open call that was seen last at this time, and a reservation that is not a call."""
        for seen_at in (at, "NULL"):
            await run_as_superuser(
                self.roles,
                f"INSERT INTO {cell}.spend_reservation (organization_id, id, mode, model, state, created_at, created_by,"
                f" expires_at, last_seen_at) VALUES ('{tenant.organization}', gen_random_uuid(), 'managed',"
                f" 'claude-haiku-4-5', 'open', now(), 'service', now() + interval '1 hour', {seen_at})",
            )


async def ingest(tenant: Tenant, *events: Any) -> httpx.Response:
    return await tenant.post(f"{tenant.path}/usage-events", json={"events": list(events)})


async def requests_in_report(tenant: Tenant) -> int:
    """The number of events in the report of the organization."""
    parameters = {"starting_at": "2026-01-01T00:00:00Z", "bucket_width": "all"}
    found = await tenant.get(f"{tenant.path}/usage-report", params=parameters)
    assert found.status_code == 200, found.text
    return sum(row["requests"] for bucket in found.json()["data"] for row in bucket["results"])
