"""What every test can ask for: a database built by the migrations, a fake provider on a real socket, the application.

Tests share one database and one provider. Each test has organizations of its own, so nothing is cleaned up
between tests and nothing of one test is seen by another.
"""

import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.auth.principal import ROLES
from app.auth.signing_keys import EmbeddedIssuer
from app.composition.bootstrap import DatabaseAccess, open_services
from app.core.organizations import ANY_ORGANIZATION
from app.core.services import Services
from app.database import migrations
from app.database.embedded_postgres import embedded_postgres
from app.database.engine import Database, DatabaseLogin
from app.main import create_app
from app.observability.logs import configure_logging
from app.settings.environment import Settings, load_settings
from tests.fake_anthropic import FakeAnthropic, Served, make_key, serve


@pytest.fixture(scope="session")
def data_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="byok-test-") as directory:
        # PostgreSQL runs as another user where root starts it.
        Path(directory).chmod(0o711)
        yield Path(directory)


@pytest.fixture(scope="session")
def server_url(data_dir: Path) -> Iterator[sa.URL]:
    """The owner's URL of a PostgreSQL server: BYOK_TEST_DATABASE_URL, else an embedded one."""
    given = os.environ.get("BYOK_TEST_DATABASE_URL")
    if given:
        yield sa.make_url(given).set(drivername="postgresql+asyncpg")
        return
    with embedded_postgres(data_dir) as url:
        yield url


@pytest.fixture(scope="session")
async def owner_url(server_url: sa.URL) -> AsyncIterator[sa.URL]:
    """A database of this run, built by the migrations."""
    url = server_url.set(database=f"byok_test_{uuid4().hex[:12]}")
    await migrations.create_database(url)
    await migrations.migrate(url)
    engine = create_async_engine(url.set(database="postgres"), isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        # Nobody pulls the plug here: no commit need wait for the disk.
        await connection.execute(sa.text(f"ALTER DATABASE {url.database} SET synchronous_commit = off"))
    yield url
    async with engine.connect() as connection:
        await connection.execute(sa.text(f"DROP DATABASE {url.database} WITH (FORCE)"))
    await engine.dispose()


@pytest.fixture(scope="session")
async def owner(owner_url: sa.URL) -> AsyncIterator[AsyncEngine]:
    """The owner's engine: sees every organization's rows."""
    engine = create_async_engine(owner_url)
    yield engine
    await engine.dispose()


@pytest.fixture(scope="session")
async def database(owner_url: sa.URL) -> AsyncIterator[Database]:
    """The service's pool, as its role."""
    database = Database(DatabaseLogin(url=owner_url, set_role=True))
    yield database
    await database.close()


@pytest.fixture(scope="session")
async def provider() -> AsyncIterator[Served]:
    async with serve() as served:
        yield served


@pytest.fixture(scope="session")
def fake_anthropic(provider: Served) -> FakeAnthropic:
    return provider.fake


@pytest.fixture(scope="session")
def settings(data_dir: Path, provider: Served) -> Settings:
    return load_settings(
        _env_file=None,
        data_dir=data_dir,
        provider={"default_base_url": provider.base_url},
        dns={"nameservers": ["127.0.0.1:9"]},  # nobody listens there: no question leaves this machine
        rate_limits={"credential_writes": 60},
    )


@pytest.fixture(scope="session")
def access(owner_url: sa.URL) -> DatabaseAccess:
    return DatabaseAccess(owner=owner_url, login=DatabaseLogin(url=owner_url, set_role=True))


@pytest.fixture(scope="session")
async def services(settings: Settings, access: DatabaseAccess) -> AsyncIterator[Services]:
    configure_logging(level="warning", log_format="json")
    async with open_services(settings, access) as services:
        yield services


@pytest.fixture(scope="session")
async def http(services: Services) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application, in this process, without a token."""

    class Opened(AsyncExitStack):
        async def __aenter__(self) -> Any:
            return services

    app = create_app(Opened())
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://byok.test") as client,
    ):
        yield client


@pytest.fixture(scope="session")
def issuer(settings: Settings) -> EmbeddedIssuer:
    return EmbeddedIssuer.load_or_create(settings.data_dir, audience=settings.auth.audience)


MakeToken = Callable[..., str]


@pytest.fixture(scope="session")
def make_token(issuer: EmbeddedIssuer) -> MakeToken:
    def make(role: str = "billing-admin", organization: str = ANY_ORGANIZATION, *, scopes: Any = None) -> str:
        return issuer.issue(
            subject=f"{role}@example.com",
            organization_id=organization,
            scopes=ROLES[role] if scopes is None else scopes,
            ttl=timedelta(hours=1),
        )

    return make


@dataclass(frozen=True, kw_only=True)
class Tenant:
    """One organization's admin, as the billing page would act for him."""

    http: httpx.AsyncClient
    organization: str
    token: str

    @property
    def path(self) -> str:
        return f"/v1/organizations/{self.organization}"

    @property
    def credentials(self) -> str:
        return f"{self.path}/provider-credentials"

    async def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}"} | options.pop("headers", {})
        return await self.http.request(method, url, headers=headers, timeout=30, **options)

    async def get(self, url: str, **options: Any) -> httpx.Response:
        return await self.request("GET", url, **options)

    async def post(self, url: str, **options: Any) -> httpx.Response:
        return await self.request("POST", url, **options)

    async def patch(self, url: str, **options: Any) -> httpx.Response:
        return await self.request("PATCH", url, **options)

    async def create(self, behaviour: str = "valid", *, headers: Any = None, **fields: Any) -> httpx.Response:
        """Save a key that makes the fake provider behave in that way."""
        body = {"label": "Acme production", "api_key": make_key(behaviour)} | fields
        return await self.post(self.credentials, json=body, headers=headers or {})

    async def created(self, behaviour: str = "valid", **fields: Any) -> dict[str, Any]:
        response = await self.create(behaviour, **fields)
        assert response.status_code == 201, response.text
        credential: dict[str, Any] = response.json()
        return credential


MakeTenant = Callable[..., Tenant]


@pytest.fixture
def make_tenant(http: httpx.AsyncClient, make_token: MakeToken) -> MakeTenant:
    def make(role: str = "billing-admin", organization: str | None = None) -> Tenant:
        organization = organization or f"org_{uuid4().hex[:16]}"
        return Tenant(http=http, organization=organization, token=make_token(role, organization))

    return make


@pytest.fixture
def tenant(make_tenant: MakeTenant) -> Tenant:
    return make_tenant()
