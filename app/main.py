"""The ASGI application: lifespan, middleware, routers and problem handlers."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import FastAPI

from app import __version__
from app.api.body_limits import BodyLimits
from app.api.middleware import Authentication, Cors, RequestContext
from app.api.openapi import describe
from app.api.problems import add_problem_handlers
from app.auth.authenticator import Authenticator
from app.composition.routes import ROUTERS
from app.core.services import Services
from app.page.router import BillingPage, page_router
from app.relay.router import RelayPaths
from app.settings.groups.access import CorsSettings
from app.usage_events.event_openapi import event_schemas
from app.webhooks.message_openapi import message_operations, message_schemas


def create_app(
    services: AbstractAsyncContextManager[Services],
    cors: CorsSettings | None = None,
    page: BillingPage | None = None,
) -> FastAPI:
    """Create the application.

    Args:
        services: opened when the application starts, and closed when it stops.
        cors: the allowed browser origins; none by default.
        page: the billing page; None: it is off.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with services as opened:
            app.state.services = opened
            yield

    app = FastAPI(
        title="Pharaoh BYOK",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # app.api serves a documentation page without external scripts
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,  # after a redirect, clients would send a key again to another path
        # FastAPI's own spans and logs contain raw paths, hosts and exceptions. app.observability.tracing replaces them.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    # Not with `include_router`, which builds every route once more, at the first request, and matches each request twice.
    # No router gets a prefix, a tag or a dependency here, so its routes need no change.
    for router in (*ROUTERS, *(() if page is None else (page_router(page),))):
        app.router.routes.extend(router.routes)
    add_problem_handlers(app)
    app.openapi = lambda: describe(app, event_schemas() | message_schemas(), message_operations())  # type: ignore[method-assign]  # the way to extend it that FastAPI documents

    _add_middleware(app, cors or CorsSettings(), page)
    return app


def _add_middleware(app: FastAPI, cors: CorsSettings, page: BillingPage | None) -> None:
    # The middleware that is added last runs first.
    app.add_middleware(BodyLimits)
    app.add_middleware(Authentication, authenticator=lambda: app.state.services[Authenticator])
    app.add_middleware(Cors, allow_origins=cors.allowed_origins)
    app.add_middleware(RelayPaths, services=lambda: app.state.services)
    app.add_middleware(RequestContext, page_headers=None if page is None else page.headers)


def openapi_document() -> dict[str, Any]:
    """Return the OpenAPI document without opening a database or any other resource."""
    return create_app(_NoServices()).openapi()


class _NoServices(AbstractAsyncContextManager[Services]):
    """Replaces the services when the application only generates its OpenAPI document."""

    async def __aenter__(self) -> Services:
        raise RuntimeError("this application only generates its OpenAPI document")

    async def __aexit__(self, *_: object) -> None: ...
