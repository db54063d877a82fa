"""The services over parts of the test's choice, put together as the composition root does it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from datetime import timedelta

import httpx
from fastapi import FastAPI

from app.auth.authenticator import Authenticator
from app.composition.factory import Adapters, ServiceConfig
from app.composition.factory import build_services as assemble_services
from app.core.services import Services
from app.database.unit_of_work import UnitsOfWork
from app.egress.webhooks import WebhookClient
from app.leases.service import Wrapper
from app.main import create_app
from app.pricing.service import PriceService
from app.provider_url.service import HostGuard
from app.secret_store.port import SecretStore
from app.settings.environment import CorsSettings
from app.validation.runner import Prober

# Where no webhook is to go anywhere.
NOBODY = httpx.MockTransport(lambda _request: httpx.Response(503))


class OpenGuard:
    """Lets every host name through: nobody connects to it here."""

    async def vet(self, host: str) -> None:
        """Whatever it is."""


def assemble(
    services: Services,
    *,
    units: UnitsOfWork,
    store: SecretStore,
    prober: Prober,
    messages_url: str = "https://api.anthropic.com/v1/messages",
    writes_per_minute: int = 1000,
    guard: HostGuard | None = None,
    check_every: timedelta | None = None,
    retention: timedelta = timedelta(hours=72),
    url_checks_per_minute: int = 1000,
    spend_limit_writes_per_minute: int = 1000,
    wrapper: Wrapper | None = None,
    vault_address: str | None = None,
    webhooks: WebhookClient | None = None,
) -> Services:
    """Services over these parts, for the callers that `services` lets in."""
    return assemble_services(
        Adapters(
            units=units,
            store=store,
            provider=prober,
            guard=guard or OpenGuard(),
            auth=services[Authenticator],
            pings={"secret_store": store.ping},
            price_list=services[PriceService].listed,
            wrapper=wrapper,
            vault_address=vault_address,
            webhooks=webhooks or WebhookClient(httpx.AsyncClient(transport=NOBODY, trust_env=False)),
        ),
        ServiceConfig(
            default_messages_url=messages_url,
            retention=retention,
            check_every=check_every,
            checks_at_once=16,
            checks_per_host=4,
            credential_writes_per_minute=writes_per_minute,
            url_checks_per_minute=url_checks_per_minute,
            spend_limit_writes_per_minute=spend_limit_writes_per_minute,
        ),
    )


@asynccontextmanager
async def client_of(
    services: Services,
    *,
    cors: CorsSettings | None = None,
    extend: Callable[[FastAPI], None] = lambda _: None,
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application of its own over these services; `extend` may add to it."""
    app = create_app(nullcontext(services), cors)
    extend(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://byok.test") as client,
    ):
        yield client
