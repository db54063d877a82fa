"""Builds the services from adapters that a test chooses, in the same way as the composition root."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from datetime import timedelta

import httpx
from fastapi import FastAPI

from app.auth.authenticator import Authenticator
from app.composition.factory import Adapters, Quotas, ServiceConfig
from app.composition.factory import build_services as assemble_services
from app.core.services import Services
from app.database.unit_of_work import UnitsOfWork
from app.egress.webhooks import WebhookClient
from app.leases.service import Wrapper
from app.main import create_app
from app.pricing.service import PriceService
from app.provider_url.service import HostGuard
from app.readiness.service import StoredSecrets
from app.secret_store.port import SecretStore
from app.settings.groups.access import CorsSettings
from app.validation.runner import Prober

# For services that must not send webhooks to the network.
UNREACHABLE = httpx.MockTransport(lambda _request: httpx.Response(503))


class AllowAllGuard:
    """Accepts every host name, because these tests do not connect to it."""

    async def resolve_and_validate(self, host: str) -> None:
        """Accept any host."""


def assemble(
    services: Services,
    *,
    units: UnitsOfWork,
    store: SecretStore,
    prober: Prober,
    messages_url: str = "https://api.anthropic.com/v1/messages",
    writes_per_minute: int = 1000,
    guard: HostGuard | None = None,
    validate_every: timedelta | None = None,
    retention: timedelta = timedelta(hours=72),
    url_checks_per_minute: int = 1000,
    spend_limit_writes_per_minute: int = 1000,
    wrapper: Wrapper | None = None,
    stored: StoredSecrets | None = None,
    vault_address: str | None = None,
    webhooks: WebhookClient | None = None,
    quotas: Quotas | None = None,
    changes_per_minute: int = 1_000_000,
    validations_per_organization: int = 4,
) -> Services:
    """Build services from these adapters. The authenticator is that of `services`."""
    return assemble_services(
        Adapters(
            units=units,
            usage_reads=units,
            store=store,
            provider=prober,
            guard=guard or AllowAllGuard(),
            auth=services[Authenticator],
            pings={"secret_store": store.ping},
            price_list=services[PriceService].price_list,
            wrapper=wrapper,
            stored=stored,
            vault_address=vault_address,
            webhooks=webhooks or WebhookClient(httpx.AsyncClient(transport=UNREACHABLE, trust_env=False)),
        ),
        ServiceConfig(
            default_messages_url=messages_url,
            retention=retention,
            validate_every=validate_every,
            validation_concurrency=16,
            validation_concurrency_per_host=4,
            validation_concurrency_per_organization=validations_per_organization,
            credential_writes_per_minute=writes_per_minute,
            url_checks_per_minute=url_checks_per_minute,
            spend_limit_writes_per_minute=spend_limit_writes_per_minute,
            changes_per_minute=changes_per_minute,
            quotas=quotas or Quotas(),
        ),
    )


@asynccontextmanager
async def client_of(
    services: Services,
    *,
    cors: CorsSettings | None = None,
    extend: Callable[[FastAPI], None] = lambda _: None,
) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of a new application over these services. `extend` may add routes to the application."""
    app = create_app(nullcontext(services), cors)
    extend(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://byok.test") as client,
    ):
        yield client
