"""Fixtures for all tests: a migrated database, a fake provider on a real socket, and the application.

Tests share one database and one fake provider. Each test uses new organizations, so no clean-up is needed between tests,
and no test sees the data of another.
"""

import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.auth.principal import ROLES
from app.auth.signing_keys import EmbeddedIssuer
from app.composition.bootstrap import open_services
from app.composition.database_access import DatabaseAccess
from app.core.organizations import ANY_ORGANIZATION
from app.core.services import Services
from app.database.engine import Database, DatabaseLogin
from app.main import create_app
from app.observability.logs import configure_logging
from app.settings.environment import load_settings
from app.settings.settings import Settings
from tests.support.credentials.interrupted_runs import INTERRUPTIONS
from tests.support.database import citus, pooler
from tests.support.database.cells import database_of_run, enter_cell
from tests.support.database.migrated_cluster import copy_migrated_cluster
from tests.support.database.own_database import (
    DatabaseRoles,
    configured_server,
    embedded_server,
    new_database,
    run_as_superuser,
)
from tests.support.fault_injection import SEED
from tests.support.page.chromium import CHROMIUM, MISSING
from tests.support.provider.fake_anthropic import FakeAnthropic, Served, serve
from tests.support.requirements import check_required
from tests.support.tenant import MakeTenant, MakeToken, Tenant
from tests.support.vault.real_server import availability_message, is_real_vault_available

pytest_plugins = ["tests.support.sampled_items", "tests.support.vault.fixtures"]


def pytest_configure() -> None:
    check_required()
    if os.environ.get("BYOK_TEST_CELLS"):
        enter_cell()  # for the background jobs that tests run themselves


def pytest_report_header() -> str:
    return f"sampled steps: BYOK_TEST_SEED={SEED}"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker process hands its counts to the process that prints the summary."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["interruptions"] = dict(INTERRUPTIONS)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    INTERRUPTIONS.update(getattr(node, "workeroutput", {}).get("interruptions", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(availability_message(), yellow=not is_real_vault_available())
    terminalreporter.write_line(pooler.availability_message(), yellow=pooler.pooler_program() is None)
    terminalreporter.write_line(citus.availability_message(), yellow=not citus.is_citus_available())
    if CHROMIUM is None:
        terminalreporter.write_line(MISSING, yellow=True)
    if INTERRUPTIONS:
        counts = ", ".join(f"{times} times with {store}" for store, times in INTERRUPTIONS.items())
        terminalreporter.write_line(f"Write protocol: interrupted {counts}.")


@pytest.fixture(scope="session")
def data_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="byok-test-") as directory:
        # If root starts it, PostgreSQL runs as another user, who must be able to traverse the directory.
        Path(directory).chmod(0o711)
        yield Path(directory)


@pytest.fixture(scope="session")
def database_server(data_dir: Path) -> Iterator[DatabaseRoles]:
    """A PostgreSQL server: the one in BYOK_TEST_DATABASE_URL (a superuser's URL), or else an embedded one."""
    configured = os.environ.get("BYOK_TEST_DATABASE_URL")
    if configured:
        yield configured_server(configured)
        return
    copy_migrated_cluster(data_dir)
    with embedded_server(data_dir) as server:
        yield server


@pytest.fixture(scope="session")
async def template_database(database_server: DatabaseRoles) -> AsyncIterator[DatabaseRoles]:
    """A database that the owner has migrated, to copy with `copied_database`. Nothing connects to it."""
    if "BYOK_TEST_DATABASE_URL" not in os.environ:
        yield database_server  # it has the tables already
        return
    async with new_database(database_server) as database:
        yield database


@pytest.fixture(scope="session")
async def database_roles(template_database: DatabaseRoles) -> AsyncIterator[DatabaseRoles]:
    """A new database for this test run, with cells if BYOK_TEST_CELLS is set."""
    async with database_of_run(template_database) as database:
        # Commits need not wait for the disk, because losing this database does not matter.
        await run_as_superuser(database, f"ALTER DATABASE {database.name} SET synchronous_commit = off")
        yield database


@pytest.fixture(scope="session")
def service_login(database_roles: DatabaseRoles) -> Iterator[DatabaseLogin]:
    """The login of the service. With BYOK_TEST_POOLER=1, all tests that use it run through PgBouncer in transaction mode."""
    if os.environ.get("BYOK_TEST_POOLER") != "1":
        yield database_roles.login
        return
    direct = database_roles.service
    with pooler.pooler_before(direct, round_robin=True) as running:
        yield DatabaseLogin(url=running.url(direct), set_role=True, direct_url=direct)


@pytest.fixture(scope="session")
async def superuser(database_roles: DatabaseRoles) -> AsyncIterator[AsyncEngine]:
    """An engine that sees the rows of all organizations. The service and the migrations never log in like this."""
    engine = create_async_engine(database_roles.superuser)
    yield engine
    await engine.dispose()


@pytest.fixture(scope="session")
async def database(service_login: DatabaseLogin) -> AsyncIterator[Database]:
    """A connection pool with the login of the service."""
    database = Database(service_login)
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
        dns={"nameservers": ["127.0.0.1:9"]},  # no server listens there, so no DNS query leaves this machine
        rate_limits={"credential_writes": 60},
    )


@pytest.fixture(scope="session")
def access(database_roles: DatabaseRoles, service_login: DatabaseLogin) -> DatabaseAccess:
    return DatabaseAccess(owner=database_roles.owner, login=service_login)


@pytest.fixture(scope="session")
async def services(settings: Settings, access: DatabaseAccess) -> AsyncIterator[Services]:
    configure_logging(level="warning", log_format="json")
    async with open_services(settings, access) as services:
        yield services


@pytest.fixture(scope="session")
async def http(services: Services) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of the application in this process, without a token."""

    class _OpenedServices(AsyncExitStack):
        async def __aenter__(self) -> Any:
            return services

    app = create_app(_OpenedServices())
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://byok.test") as client,
    ):
        yield client


@pytest.fixture(scope="session")
def issuer(settings: Settings) -> EmbeddedIssuer:
    return EmbeddedIssuer.load_or_create(settings.data_dir, audience=settings.auth.audience)


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


@pytest.fixture
def make_tenant(http: httpx.AsyncClient, make_token: MakeToken) -> MakeTenant:
    def make(role: str = "billing-admin", organization: str | None = None) -> Tenant:
        organization = organization or f"org_{uuid4().hex[:16]}"
        return Tenant(http=http, organization=organization, token=make_token(role, organization))

    return make


@pytest.fixture
def tenant(make_tenant: MakeTenant) -> Tenant:
    return make_tenant()
