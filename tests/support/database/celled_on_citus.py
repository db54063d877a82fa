"""Cells on the workers of a Citus cluster, and the application on its coordinator."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import httpx

from app.auth.principal import ROLES, Scope
from app.composition.bootstrap import open_services
from app.composition.database_access import DatabaseAccess
from app.database.cells.directory import in_cell
from app.database.migrations import create_cell, migrate
from app.main import create_app
from app.settings.settings import Settings
from app.usage_reports.rollup_worker import RollupWorker
from tests.support.database.bare_servers import BareServer
from tests.support.database.celled import Celled, ingest
from tests.support.database.citus import CitusCluster, citus_database
from tests.support.database.own_database import DatabaseRoles, run_as_superuser
from tests.support.requests.usage_events import event
from tests.support.tenant import MakeToken, Tenant

_PLACES = """
    SELECT DISTINCT s.nodename AS host, s.nodeport AS port FROM citus_shards s
    JOIN pg_class c ON c.oid = s.table_name WHERE c.relnamespace = to_regnamespace($1)
"""


class Cluster(Celled):
    """Cells `cell_1` and `cell_2`, each on another worker, and the application on the coordinator."""

    cluster: CitusCluster

    async def place(self, cell: str) -> asyncpg.Record:
        """The only worker that has tables of the cell."""
        (place,) = await self.rows(_PLACES, cell)
        return place

    async def worker(self, cluster: CitusCluster, cell: str) -> BareServer:
        place = await self.place(cell)
        return next(it for it in cluster.servers if it.superuser.port == place["port"])

    async def roll_up(self) -> None:
        for cell in ("public", "cell_1", "cell_2"):
            with in_cell(cell):
                await self.services[RollupWorker].run()

    async def watermark(self, cell: str, tenant: Tenant) -> int:
        """The first transaction that is not rolled up; 0 if none is."""
        found = await self.rows(
            f"SELECT folded_before FROM {cell}.usage_fold WHERE organization_id = $1", tenant.organization
        )
        return found[0]["folded_before"] if found else 0

    async def is_queued(self, cell: str, tenant: Tenant) -> bool:
        """Whether the organization is in the queue for another rollup."""
        return bool(
            await self.rows(
                f"SELECT 1 FROM {cell}.job_queue WHERE organization_id = $1 AND kind = 'fold_usage'",
                tenant.organization,
            )
        )

    async def tenant_in(self, cell: str) -> Tenant:
        """A new organization that lives in the cell, with one event."""
        await run_as_superuser(self.roles, f"UPDATE cells.cell SET takes_new = (name = '{cell}')")
        tenant = self.tenant()
        assert (await ingest(tenant, event())).status_code == 200
        assert await self.cell_of(tenant) == cell
        return tenant


@asynccontextmanager
async def celled_on_citus(
    cluster: CitusCluster, settings: Settings, make_token: MakeToken
) -> AsyncIterator[Cluster]:
    """A new database with both cells on this cluster, and the application on it."""
    async with AsyncExitStack() as stack:
        roles = await stack.enter_async_context(citus_database(cluster))
        await migrate(roles.owner)
        for cell in ("cell_1", "cell_2"):
            await create_cell(roles.owner, cell, is_distributed=True)
        yield await stack.enter_async_context(application_on(roles, settings, make_token))


@asynccontextmanager
async def application_on(
    roles: DatabaseRoles, settings: Settings, make_token: MakeToken
) -> AsyncIterator[Cluster]:
    """The application on this coordinator."""
    async with AsyncExitStack() as stack:
        access = DatabaseAccess(owner=roles.owner, login=roles.login)
        token = make_token("service", scopes=[*ROLES["service"], Scope.BILLING_WRITE])
        services = await stack.enter_async_context(open_services(settings, access))

        class _Opened(AsyncExitStack):
            async def __aenter__(self) -> Any:
                return services

        app = create_app(_Opened())
        await stack.enter_async_context(app.router.lifespan_context(app))
        http = await stack.enter_async_context(
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://byok.test")
        )
        yield Cluster(roles=roles, services=services, http=http, token=token)
