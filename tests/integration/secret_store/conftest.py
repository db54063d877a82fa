"""Every adapter of the port, by name: once at work, once with nothing behind it."""

from collections.abc import AsyncIterator, Callable, Iterator
from uuid import uuid4

import pytest
import sqlalchemy as sa

from app.database.engine import Database, DatabaseLogin
from app.secret_store.embedded.keyset import Keyset
from app.secret_store.embedded.store import EmbeddedSecretStore
from app.secret_store.port import SecretRef, SecretStore
from app.secret_store.vault.client import VaultServer
from app.secret_store.vault.roles import VaultRole, VaultSessions
from app.secret_store.vault.session import VaultLogin, VaultSession
from app.secret_store.vault.store import VaultMounts, VaultSecretStore
from tests.fake_vault import ROOT, FakeVault, ServedVault, serve
from tests.fakes import FakeSecretStore
from tests.integration.secret_store.server import RealServer, is_there, real_server, summary
from tests.integration.secret_store.sessions import APPROLE, Clock
from tests.integration.secret_store.vaults import Prepared, prepared_vault

REAL_VAULT = ["vault"] if is_there() else []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(summary(), yellow=not is_there())


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
    # Nobody listens on port 1, and a host of our own answers so at once.
    database = Database(
        DatabaseLogin(url=sa.make_url("postgresql+asyncpg://nobody@127.0.0.1:1/none"), set_role=False)
    )
    yield EmbeddedSecretStore(database, Keyset.generate())
    await database.close()


@pytest.fixture(scope="session")
def vault_server() -> Iterator[RealServer]:
    if not is_there():
        pytest.skip("needs a real Vault or OpenBao")
    with real_server() as server:
        yield server


@pytest.fixture(scope="session")
async def prepared(vault_server: RealServer) -> AsyncIterator[Prepared]:
    """A real server after `byok vault-setup`."""
    async with prepared_vault(vault_server.address, vault_server.token) as prepared:
        yield prepared


@pytest.fixture(scope="session")
async def vault(prepared: Prepared) -> AsyncIterator[VaultSecretStore]:
    """Each role logged in by itself, with its own policy and no more."""
    async with prepared.store(await prepared.logins()) as store:
        yield store


@pytest.fixture(scope="session")
async def shared_vault() -> AsyncIterator[ServedVault]:
    async with serve() as served:
        yield served


@pytest.fixture
def served_vault(shared_vault: ServedVault) -> Iterator[ServedVault]:
    """The fake, as if new but for what it keeps."""
    shared_vault.fake.obey()
    yield shared_vault
    shared_vault.fake.obey()


@pytest.fixture(scope="session")
async def prepared_fake(shared_vault: ServedVault) -> AsyncIterator[Prepared]:
    async with prepared_vault(shared_vault.address, ROOT) as prepared:
        yield prepared


@pytest.fixture
async def fake_vault(prepared_fake: Prepared, served_vault: ServedVault) -> AsyncIterator[VaultSecretStore]:
    async with prepared_fake.store() as store:
        yield store


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def vault_insides(served_vault: ServedVault) -> FakeVault:
    """The fake, with one log-in and one mount."""
    served_vault.fake.logins["writer"] = "secret id"
    served_vault.fake.mount("kv", {"type": "kv"})
    return served_vault.fake


@pytest.fixture
async def server(served_vault: ServedVault) -> AsyncIterator[VaultServer]:
    server = VaultServer(served_vault.address)
    yield server
    server.close()


@pytest.fixture
async def session(server: VaultServer, vault_insides: FakeVault, clock: Clock) -> AsyncIterator[VaultSession]:
    session = VaultSession(server, APPROLE, clock=clock)
    yield session
    await session.close()


@pytest.fixture(params=["prepared_fake", *(["prepared"] if is_there() else [])])
def any_vault(request: pytest.FixtureRequest) -> Prepared:
    """The fake and, where there is one, a real server."""
    found: Prepared = request.getfixturevalue(request.param)
    return found


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
