"""The services over parts of the test's choice, put together as the composition root does it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace

import httpx
from fastapi import FastAPI

from app.core.settings import CorsSettings
from app.main import create_app
from app.repositories.unit_of_work import UnitsOfWork
from app.secret_store.base import SecretStore
from app.services import Services
from app.services.credentials import Credentials
from app.services.health import Health
from app.services.idempotency import Idempotency
from app.services.rate_limits import RateLimitKind, RateLimits
from app.services.secret_writes import SecretWrites
from app.services.sweep import Sweep
from app.services.validation import Prober, Validation


def assemble(
    services: Services,
    *,
    units: UnitsOfWork,
    store: SecretStore,
    prober: Prober,
    messages_url: str = "https://api.anthropic.com/v1/messages",
    writes_per_minute: int = 1000,
) -> Services:
    """Like `services`, with these parts in the place of the usual ones."""
    rate_limits = RateLimits(units, {RateLimitKind.CREDENTIAL_WRITES: writes_per_minute})
    validation = Validation(units, store, prober, rate_limits)
    return replace(
        services,
        credentials=Credentials(units, store, validation, rate_limits, default_messages_url=messages_url),
        validation=validation,
        idempotency=Idempotency(units),
        sweep=Sweep(units, SecretWrites(units, store), validation),
        health=Health({"secret_store": store.ping}),
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
