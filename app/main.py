"""The ASGI application: lifespan, layers around every request, routers, problem handlers."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import FastAPI

from app import __version__
from app.api.middleware import Authentication, BodyLimits, Cors, RequestContext
from app.api.openapi import describe
from app.api.problems import add_problem_handlers
from app.auth.authenticator import Authenticator
from app.composition.routes import ROUTERS
from app.core.services import Services
from app.settings.environment import CorsSettings
from app.usage.event_openapi import event_schemas


def create_app(services: AbstractAsyncContextManager[Services], cors: CorsSettings | None = None) -> FastAPI:
    """The application over services that are opened when it starts and closed when it stops."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with services as opened:
            app.state.services = opened
            yield

    app = FastAPI(
        title="Pharaoh BYOK",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # ours has no scripts from elsewhere
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,  # a redirect would make clients repeat a key to another path
        # FastAPI's own spans and logs carry raw paths, hosts and exceptions; ours are in app.observability.tracing.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    for router in ROUTERS:
        app.include_router(router)
    add_problem_handlers(app)
    app.openapi = lambda: describe(app, event_schemas())  # type: ignore[method-assign]  # FastAPI's documented way to extend it

    # The last one added is the outermost.
    app.add_middleware(BodyLimits)
    app.add_middleware(Authentication, authenticator=lambda: app.state.services[Authenticator])
    app.add_middleware(Cors, allowed_origins=(cors or CorsSettings()).allowed_origins)
    app.add_middleware(RequestContext)
    return app


def openapi_document() -> dict[str, Any]:
    """The OpenAPI document, without opening anything."""
    return create_app(_Nothing()).openapi()


class _Nothing(AbstractAsyncContextManager[Services]):
    """Services of an application that only describes itself."""

    async def __aenter__(self) -> Services:
        raise RuntimeError("this application only describes itself")

    async def __aexit__(self, *_: object) -> None: ...
