"""What tests of webhooks share: services whose way out ends at a receiver on loopback."""

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
from tests.api.spending import Spenders
from tests.assembly import assemble
from tests.conftest import Tenant
from tests.integration.egress.far_side import ADDRESS, HOST, Detour, FixedResolver, client
from tests.interruptions import ApprovingProber
from tests.rows import change, fetch
from tests.spend_ledger import ingest, make_row, usd

URL = f"https://{HOST}/hooks"


@dataclass(frozen=True, kw_only=True)
class Telling:
    """An organization whose limits are told about."""

    spenders: Spenders
    services: Services
    database: Database
    owner: AsyncEngine
    detour: Detour

    @property
    def admin(self) -> Tenant:
        return self.spenders.admin

    @property
    def endpoints(self) -> str:
        return f"{self.admin.path}/webhook-endpoints"

    async def add(self, url: str = URL, **options: Any) -> httpx.Response:
        return await self.admin.post(self.endpoints, json={"url": url}, **options)

    async def added(self, url: str = URL) -> dict[str, Any]:
        response = await self.add(url)
        assert response.status_code == 201, response.text
        endpoint: dict[str, Any] = response.json()
        return endpoint

    async def delete(self, endpoint: Any) -> httpx.Response:
        return await self.admin.request("DELETE", f"{self.endpoints}/{endpoint['id']}")

    async def cross(self, *thresholds: int) -> dict[str, Any]:
        """A limit of ten dollars that is spent to its last cent: each threshold is one message to each endpoint."""
        limit = await self.spenders.set_limit(thresholds=list(thresholds or (100,)))
        await ingest(self.database, self.admin.organization, make_row(usd(10)))
        return limit

    async def let_it_be_time(self) -> None:
        """For the next attempts."""
        await change(
            self.owner,
            "UPDATE job_queue SET due_at = now() - interval '1 second' WHERE organization_id = :organization",
            organization=self.admin.organization,
        )

    async def deliveries(self) -> list[dict[str, Any]]:
        return await fetch(
            self.owner,
            "SELECT d.*, extract(epoch FROM q.due_at - now()) AS due_in FROM webhook_delivery d LEFT JOIN job_queue q"
            " ON q.organization_id = d.organization_id AND q.id = d.id AND q.kind = 'deliver_webhook'"
            " WHERE d.organization_id = :organization ORDER BY d.id",
            organization=self.admin.organization,
        )


def services_of(
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
async def way_out(
    port: int | None, *answers: Sequence[str] | None
) -> AsyncIterator[tuple[httpx.AsyncClient, AddressGuard, Detour]]:
    """A vetted way to a port on loopback, and a guard that is asked when an endpoint is saved.

    Args:
        port: where what is dialled ends; None: nowhere, in silence.
        answers: of the resolver at delivery, by turns; none: always the one public address.
    """
    detour = Detour({ADDRESS: port})
    at_delivery = FixedResolver(gw_example_com=list(answers) or [[ADDRESS]])
    at_saving = AddressGuard(FixedResolver(gw_example_com=[[ADDRESS]]))
    async with client(at_delivery, detour) as http:
        yield http, at_saving, detour
