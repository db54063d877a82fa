"""Helpers to test webhooks: an organization with endpoints, and services whose deliveries end at a receiver on loopback."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.services import Services
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.egress.resolver import AddressGuard
from app.egress.webhooks import WebhookClient
from app.secret_store.port import SecretStore
from tests.support.database.rows import change, fetch
from tests.support.database.spending_ledger import ingest, make_row, usd
from tests.support.fault_injection import ApprovingProber
from tests.support.network.scripted_servers import ADDRESS, HOST, FixedResolver, LoopbackBackend, client
from tests.support.requests.spend_limits import SpendClients
from tests.support.service_builder import assemble
from tests.support.tenant import Tenant

URL = f"https://{HOST}/hooks"


@dataclass(frozen=True, kw_only=True)
class WebhookOrganization:
    """An organization that receives notifications about its spend limits."""

    clients: SpendClients
    services: Services
    database: Database
    superuser: AsyncEngine
    backend: LoopbackBackend

    @property
    def admin(self) -> Tenant:
        return self.clients.admin

    @property
    def endpoints(self) -> str:
        return f"{self.admin.path}/webhook-endpoints"

    async def post_endpoint(self, url: str = URL, **options: Any) -> httpx.Response:
        return await self.admin.post(self.endpoints, json={"url": url}, **options)

    async def create_endpoint(self, url: str = URL) -> dict[str, Any]:
        response = await self.post_endpoint(url)
        assert response.status_code == 201, response.text
        endpoint: dict[str, Any] = response.json()
        return endpoint

    async def delete_endpoint(self, endpoint: Any) -> httpx.Response:
        return await self.admin.request("DELETE", f"{self.endpoints}/{endpoint['id']}")

    async def cross_thresholds(self, *thresholds: int) -> dict[str, Any]:
        """Set a limit of $10 and spend all of it, so that each threshold is one message to each endpoint."""
        limit = await self.clients.create_limit(thresholds=list(thresholds or (100,)))
        await ingest(self.database, self.admin.organization, make_row(usd(10)))
        return limit

    async def make_deliveries_due(self) -> None:
        """Make the next attempts due now."""
        await change(
            self.superuser,
            "UPDATE job_queue SET due_at = now() - interval '1 second' WHERE organization_id = :organization",
            organization=self.admin.organization,
        )

    async def deliveries(self) -> list[dict[str, Any]]:
        return await fetch(
            self.superuser,
            "SELECT d.*, extract(epoch FROM q.due_at - now()) AS due_in FROM webhook_delivery d LEFT JOIN job_queue q"
            " ON q.organization_id = d.organization_id AND q.id = d.id AND q.kind = 'deliver_webhook'"
            " WHERE d.organization_id = :organization ORDER BY d.id",
            organization=self.admin.organization,
        )


def services_with_webhooks(
    services: Services,
    units: UnitsOfWork,
    store: SecretStore,
    *,
    http: httpx.AsyncClient,
    guard: AddressGuard,
    timeout_seconds: float = 10,
) -> Services:
    return assemble(
        services,
        units=units,
        store=store,
        prober=ApprovingProber(),
        guard=guard,
        webhooks=WebhookClient(http, timeout_seconds=timeout_seconds),
    )


@asynccontextmanager
async def egress_to(
    port: int | None, *responses: Sequence[str] | None
) -> AsyncIterator[tuple[httpx.AsyncClient, AddressGuard, LoopbackBackend]]:
    """Yield a client whose connections end at a port on loopback, and a guard for creating endpoints.

    Args:
        port: the target of all connections; None drops packets.
        responses: the resolver's responses at delivery, one after the other; by default one public address.
    """
    backend = LoopbackBackend({ADDRESS: port})
    resolver = FixedResolver(gw_example_com=list(responses) or [[ADDRESS]])
    guard = AddressGuard(FixedResolver(gw_example_com=[[ADDRESS]]))
    async with client(resolver, backend) as http:
        yield http, guard, backend
