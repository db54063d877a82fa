"""Fixtures for every adapter of the port: working ones, and ones whose backend is unreachable."""

from collections.abc import AsyncIterator, Callable, Iterator
from uuid import uuid4

import pytest
import sqlalchemy as sa

from app.database.engine import Database, DatabaseLogin
from app.secret_store.embedded.keyset import Keyset
from app.secret_store.embedded.store import EmbeddedSecretStore
from app.secret_store.port import SecretRef, SecretStore
from app.secret_store.vault.client import VaultServer
from app.secret_store.vault.engines import VaultMounts
from app.secret_store.vault.roles import VaultRole, VaultSessions
from app.secret_store.vault.session import VaultLogin, VaultSession
from app.secret_store.vault.store import VaultSecretStore
from tests.support.fakes import FakeSecretStore
from tests.support.vault.fake import FakeVault, ServedVault
from tests.support.vault.prepared import PreparedVault
from tests.support.vault.real_server import is_real_vault_available
from tests.support.vault.sessions import APPROLE, Clock

REAL_VAULT = ["vault"] if is_real_vault_available() else []


@pytest.fixture
def fake() -> SecretStore:
    return FakeSecretStore()


@pytest.fixture
def embedded(database: Database) -> SecretStore:
    return EmbeddedSecretStore(database, Keyset.generate())


@pytest.fixture
def unreachable_fake() -> SecretStore:
    fake = FakeSecretStore()
    fake.unavailable = True
    return fake


@pytest.fixture
async def unreachable_embedded() -> AsyncIterator[SecretStore]:
    # No process listens on port 1, and the loopback address refuses the connection immediately.
    database = Database(
        DatabaseLogin(url=sa.make_url("postgresql+asyncpg://nobody@127.0.0.1:1/none"), set_role=False)
    )
    yield EmbeddedSecretStore(database, Keyset.generate())
    await database.close()


@pytest.fixture(scope="session")
async def vault(real_vault: PreparedVault) -> AsyncIterator[VaultSecretStore]:
    """A store over a real Vault in which each role has its own login and policy."""
    async with real_vault.store(await real_vault.logins()) as store:
        yield store


@pytest.fixture
def served_vault(shared_vault: ServedVault) -> Iterator[ServedVault]:
    """The fake, without recorded requests and scripted responses. Its secrets stay."""
    shared_vault.fake.reset()
    yield shared_vault
    shared_vault.fake.reset()


@pytest.fixture
async def fake_vault(
    prepared_fake: PreparedVault, served_vault: ServedVault
) -> AsyncIterator[VaultSecretStore]:
    async with prepared_fake.store() as store:
        yield store


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def configured_fake(served_vault: ServedVault) -> FakeVault:
    """The fake, with one AppRole login and one mount."""
    served_vault.fake.logins["writer"] = "secret id"
    served_vault.fake.mount("kv", {"type": "kv"})
    return served_vault.fake


@pytest.fixture
async def server(served_vault: ServedVault) -> AsyncIterator[VaultServer]:
    server = VaultServer(served_vault.address)
    yield server
    server.close()


@pytest.fixture
async def session(
    server: VaultServer, configured_fake: FakeVault, clock: Clock
) -> AsyncIterator[VaultSession]:
    session = VaultSession(server, APPROLE, clock=clock)
    yield session
    await session.close()


@pytest.fixture
async def unreachable_vault() -> AsyncIterator[VaultSecretStore]:
    login = VaultLogin(method="token", token="none")
    sessions = VaultSessions(VaultServer("http://127.0.0.1:1"), dict.fromkeys(VaultRole, login))
    store = VaultSecretStore(sessions, VaultMounts())
    yield store
    await store.close()


@pytest.fixture(params=["fake", "embedded", "fake_vault", *REAL_VAULT])
def store(request: pytest.FixtureRequest) -> SecretStore:
    found: SecretStore = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=["unreachable_fake", "unreachable_embedded", "unreachable_vault"])
def unreachable_store(request: pytest.FixtureRequest) -> SecretStore:
    found: SecretStore = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def make_ref() -> Callable[[], SecretRef]:
    return lambda: SecretRef(organization_id=f"org_{uuid4().hex}", credential_id=uuid4())


@pytest.fixture
def ref(make_ref: Callable[[], SecretRef]) -> SecretRef:
    return make_ref()
