"""One browser and one service for all tests of the page. Each test has its own organization and browser context."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, nullcontext
from datetime import timedelta
from typing import Any

import dns.rcode
import httpx
import pytest
from playwright.async_api import Browser

from app.auth.signing_keys import EmbeddedIssuer
from app.composition.bootstrap import open_services
from app.composition.database_access import DatabaseAccess
from app.core.services import Services
from app.main import create_app
from app.page.document import PageConfig
from app.page.router import BillingPage
from app.page.sign_in import SignIn, issue_code
from app.settings.groups.access import CorsSettings
from app.settings.settings import Settings
from tests.support.network.dns_server import name_server
from tests.support.page.browser import Visit, launched, visiting
from tests.support.page.chromium import CHROMIUM, MISSING
from tests.support.page.coverage import CoverageBound
from tests.support.page.site import Host, listen, origin_of, serving
from tests.support.requests.rotation import rotate_credential
from tests.support.requests.spend_limits import MONTHLY
from tests.support.requests.usage_events import Ledger, event, instant
from tests.support.requests.usage_mode import switch_mode
from tests.support.tenant import MakeTenant, Tenant

# Names that tests of the page resolve. The page never connects to them, and neither do these tests.
_ADDRESSES = {"gw.example.com.": "93.184.215.14", "internal.example.com.": "10.0.0.1"}


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(CoverageBound(), "page-coverage")


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    if CHROMIUM is None:
        pytest.skip(MISSING)
    async with launched() as browser:
        yield browser


@pytest.fixture(scope="session")
async def host() -> AsyncIterator[tuple[Host, str]]:
    """A second origin, which may embed the page."""
    application, listener = Host(), listen()
    async with serving(application, listener, lifespan=False) as origin:
        yield application, origin


@pytest.fixture(scope="session")
async def page_services(settings: Settings, access: DatabaseAccess) -> AsyncIterator[Services]:
    """The services with a name server, so that URLs can be checked."""

    def respond(name: str, kind: str) -> tuple[dns.rcode.Rcode, list[str]]:
        if name not in _ADDRESSES:
            return dns.rcode.NXDOMAIN, []
        return dns.rcode.NOERROR, [f"{name} 60 IN A {_ADDRESSES[name]}"] if kind == "A" else []

    async with name_server(respond) as server:
        resolving = settings.dns.model_copy(update={"nameservers": [f"127.0.0.1:{server.port}"]})
        async with open_services(settings.model_copy(update={"dns": resolving}), access) as services:
            yield services


@pytest.fixture(scope="session")
async def origin(
    page_services: Services, settings: Settings, issuer: EmbeddedIssuer, host: tuple[Host, str]
) -> AsyncIterator[str]:
    """The service with its page, as in development."""
    listener = listen()
    page = BillingPage(
        config=PageConfig(frame_ancestors=[host[1]]), sign_in=SignIn(issuer, settings.data_dir)
    )
    app = create_app(nullcontext(page_services), CorsSettings(allowed_origins=[host[1]]), page)
    async with serving(app, listener) as origin:
        assert origin == origin_of(listener)
        yield origin


@pytest.fixture
def make_code(issuer: EmbeddedIssuer, tenant: Tenant) -> Callable[..., str]:
    def make(role: str = "billing-admin", *, ttl: timedelta = timedelta(hours=1)) -> str:
        return issue_code(
            issuer, subject="ada@acme.example", organization_id=tenant.organization, role=role, ttl=ttl
        )

    return make


@pytest.fixture
async def visits(browser: Browser, origin: str) -> AsyncIterator[Callable[..., Any]]:
    """Opens visits, and closes them after the test."""
    async with AsyncExitStack() as opened:

        async def open_visit(**options: Any) -> Visit:
            return await opened.enter_async_context(visiting(browser, origin, **options))

        yield open_visit


@pytest.fixture
async def visit(visits: Callable[..., Any], make_code: Callable[..., str]) -> Visit:
    """An admin on the page, signed in."""
    visit: Visit = await visits()
    await visit.open(make_code())
    return visit


@pytest.fixture
async def credential(tenant: Tenant) -> dict[str, Any]:
    """A valid key in use."""
    created: dict[str, Any] = await tenant.created()
    await switch_mode(tenant, {"mode": "byo", "credential_id": created["id"]})
    return created


@pytest.fixture
async def admin(
    credential: dict[str, Any], visits: Callable[..., Any], make_code: Callable[..., str]
) -> Visit:
    """An admin who opens the page of an organization with a key in use."""
    assert credential["id"]
    visit: Visit = await visits()
    await visit.open(make_code())
    return visit


@pytest.fixture
def ledger(tenant: Tenant, make_tenant: MakeTenant) -> Ledger:
    """The ledger of the organization, into which an internal service ingests."""
    service = make_tenant("service", "*")
    return Ledger(
        tenant=tenant,
        service=Tenant(http=service.http, organization=tenant.organization, token=service.token),
    )


@pytest.fixture
async def busy_organization(tenant: Tenant, ledger: Ledger) -> Tenant:
    """An organization with a key in use, a pending rotation, a limit and usage in both modes."""
    await ledger.accepted(*(event(feature="triage", started_at=instant(hours=it)) for it in (1, 30)))
    created = await tenant.created()
    await switch_mode(tenant, {"mode": "byo", "credential_id": created["id"]})
    await ledger.accepted(event(feature="chat", session_id="s1", started_at=instant(seconds=-2)))
    await rotate_credential(tenant, f"{tenant.credentials}/{created['id']}", "overloaded")
    await tenant.post(f"{tenant.path}/spend-limits", json=MONTHLY)
    return tenant


@pytest.fixture
async def client(origin: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=origin, trust_env=False) as client:
        yield client
