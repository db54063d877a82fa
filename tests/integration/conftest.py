"""Fixtures of the integration tests: organizations, and the secret stores that the write protocol is tested with."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.auth.principal import Caller
from app.core.services import Services
from app.database.cells.directory import HOME, in_cell
from app.database.engine import Database
from app.database.migrations import create_cell
from app.secret_store.embedded.keyset import Keyset
from app.secret_store.embedded.store import EmbeddedSecretStore
from app.secret_store.vault.client import VaultServer
from tests.support.credentials.fixture_types import MakeCaller, MakeCredentialUnderTest, MakeHarness
from tests.support.credentials.invariants import CredentialUnderTest
from tests.support.credentials.operations import rotation
from tests.support.credentials.organization_harness import OrganizationHarness, make_key
from tests.support.credentials.store_variants import Secret, StoreVariant, over_vault
from tests.support.database.citus import CitusCluster, citus_cluster
from tests.support.database.own_database import DatabaseRoles, copied_database
from tests.support.database.rows import fetch
from tests.support.fakes import FakeSecretStore
from tests.support.vault.fake import ROOT, FakeVault
from tests.support.vault.fault_injection import InterceptableVaultServer
from tests.support.vault.in_process import InProcessVaultServer, InProcessWire
from tests.support.vault.prepared import prepared_vault
from tests.support.vault.real_server import is_real_vault_available, real_server


@pytest.fixture(scope="module")
def cluster() -> Iterator[CitusCluster]:
    """A Citus cluster, for tests that need one."""
    with citus_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def fake_store_variant() -> StoreVariant:
    store = FakeSecretStore()

    async def secrets(organization_id: str) -> set[Secret]:
        return {
            (ref.credential_id, number)
            for ref, versions in store._stored.items()
            if ref.organization_id == organization_id
            for number, stored in enumerate(versions, 1)
            if stored.key is not None
        }

    return StoreVariant(name="memory", store=store, secrets=secrets)


@pytest.fixture(scope="session")
def embedded_store_variant(database: Database, superuser: AsyncEngine) -> StoreVariant:
    async def secrets(organization_id: str) -> set[Secret]:
        rows = await fetch(
            superuser,
            "SELECT credential_id, store_version FROM sealed_secret"
            " WHERE organization_id = :organization_id AND sealed_secret.sealed IS NOT NULL",
            organization_id=organization_id,
        )
        return {(row["credential_id"], row["store_version"]) for row in rows}

    return StoreVariant(
        name="the embedded store", store=EmbeddedSecretStore(database, Keyset.generate()), secrets=secrets
    )


@pytest.fixture(scope="session")
def direct_wire() -> InProcessWire:
    return InProcessWire(FakeVault())


@pytest.fixture(scope="session")
async def vault_store_variant(direct_wire: InProcessWire) -> AsyncIterator[StoreVariant]:
    """The Vault adapter with the fake Vault. Each HTTP call has steps before and after it."""
    async with (
        prepared_vault(
            "http://vault.test",
            ROOT,
            connect=lambda: InterceptableVaultServer(InProcessVaultServer(direct_wire)),
        ) as vault,
        vault.store() as store,
    ):
        yield over_vault("Vault's fake", vault, store)


@pytest.fixture(scope="session")
async def real_vault_store_variant() -> AsyncIterator[StoreVariant]:
    """The Vault adapter with a real server. Each role has a separate login."""
    async with AsyncExitStack() as stack:
        server = stack.enter_context(real_server())
        vault = await stack.enter_async_context(
            prepared_vault(
                server.address,
                server.token,
                connect=lambda: InterceptableVaultServer(VaultServer(server.address)),
            )
        )
        store = await stack.enter_async_context(vault.store(await vault.logins()))
        yield over_vault("a real Vault", vault, store)


@pytest.fixture(params=["fake_store_variant", "embedded_store_variant", "vault_store_variant"])
def store_variant(request: pytest.FixtureRequest) -> StoreVariant:
    found: StoreVariant = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=["fake_store_variant", "vault_store_variant"])
def in_memory_store_variant(request: pytest.FixtureRequest) -> StoreVariant:
    """The stores in memory, for tests with thousands of runs."""
    found: StoreVariant = request.getfixturevalue(request.param)
    return found


@pytest.fixture(
    params=["vault_store_variant", *(["real_vault_store_variant"] if is_real_vault_available() else [])]
)
def any_vault_store_variant(request: pytest.FixtureRequest) -> StoreVariant:
    found: StoreVariant = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def in_first_cell() -> Iterator[None]:
    """For a database that BYOK_TEST_CELLS does not change: transactions without an organization use its first cell."""
    with in_cell(HOME):
        yield


@pytest.fixture(scope="session")
async def template_with_cells(template_database: DatabaseRoles) -> AsyncIterator[DatabaseRoles]:
    """A database with three cells, to copy, because to add cells takes longer. Nothing connects to it."""
    async with copied_database(template_database) as roles:
        for cell in ("cell_1", "cell_2"):
            await create_cell(roles.owner, cell)
        yield roles


@pytest.fixture(scope="module")
async def own_roles(template_database: DatabaseRoles) -> AsyncIterator[DatabaseRoles]:
    """A separate database for one module, whose tests process the due work of all organizations."""
    async with copied_database(template_database) as roles:
        yield roles


@pytest.fixture(scope="module")
async def own_superuser(own_roles: DatabaseRoles) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(own_roles.superuser)
    yield engine
    await engine.dispose()


@pytest.fixture(scope="module")
async def own_database(own_roles: DatabaseRoles) -> AsyncIterator[Database]:
    database = Database(own_roles.login)
    yield database
    await database.close()


@pytest.fixture
def make_caller() -> MakeCaller:
    """Create an admin of a new organization."""
    return lambda: Caller(
        subject="ada@example.com", organization_id=f"org_{uuid4().hex[:16]}", request_id="req_test"
    )


@pytest.fixture
def make_harness(
    services: Services, database: Database, superuser: AsyncEngine, make_caller: MakeCaller
) -> MakeHarness:
    return lambda store_variant: OrganizationHarness(
        services=services,
        database=database,
        superuser=superuser,
        store_variant=store_variant,
        caller=make_caller(),
    )


@pytest.fixture
def make_credential_under_test(make_harness: MakeHarness) -> MakeCredentialUnderTest:
    """Create a credential and rotate it until it has had `keys` keys."""

    async def make(store_variant: StoreVariant, keys: int) -> CredentialUnderTest:
        harness, key = make_harness(store_variant), make_key()
        record = await harness.register(harness.healthy_services, key)
        under_test = CredentialUnderTest(harness=harness, credential_id=record.id, keys=[key])
        for _ in range(keys - 1):
            await rotation()(under_test, harness.healthy_services)
        return under_test

    return make
