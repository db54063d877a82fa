"""The ASGI application: lifespan, middleware, routers and problem handlers."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cache
from typing import Any

from fastapi import APIRouter, FastAPI

from app import __version__
from app.api.middleware import Authentication, BodyLimits, Cors, RequestContext
from app.api.openapi import describe
from app.api.problems import add_problem_handlers
from app.auth.authenticator import Authenticator
from app.composition.routes import ROUTERS
from app.core.services import Services
from app.page.router import BillingPage, page_router
from app.relay.router import RelayPaths
from app.settings.groups.access import CorsSettings
from app.usage_events.event_openapi import event_schemas


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
    app.router.routes.extend(_features().routes)
    if page is not None:
        app.include_router(page_router(page))
    add_problem_handlers(app)
    app.openapi = lambda: describe(app, event_schemas())  # type: ignore[method-assign]  # the way to extend it that FastAPI documents

    _add_middleware(app, cors or CorsSettings(), page)
    return app


@cache
def _features() -> APIRouter:
    """The routers of all features. All applications of a process share their routes.

    They have no state of an application. FastAPI prepares included routers at their first request, which takes almost
    half a second of CPU time, and the tests create hundreds of applications.
    """
    features = APIRouter()
    for router in ROUTERS:
        features.include_router(router)
    return features


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
