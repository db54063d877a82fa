"""What the services' tests share: organizations, and the stores over which the order of writes must hold."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from uuid import UUID, uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.database import Database
from app.domain.auth import Caller
from app.secret_store.base import SecretStore
from app.secret_store.embedded import EmbeddedSecretStore
from app.secret_store.keyset import Keyset
from app.secret_store.vault import VaultSecretStore
from app.secret_store.vault_client import VaultServer
from tests.direct_vault import DirectWire, WiredVault
from tests.fake_vault import ROOT, FakeVault
from tests.fakes import FakeSecretStore
from tests.integration.secret_store.server import is_there, real_server
from tests.integration.secret_store.vaults import Prepared, prepared_vault
from tests.interrupted_vault import Interruptible, interrupted_vault
from tests.interruptions import Course, interrupted_store
from tests.rows import fetch

Secret = tuple[UUID, int]


@dataclass(frozen=True, kw_only=True)
class Vessel:
    """A secret store, and a look past its port at which secrets of an organization rest in it."""

    name: str
    store: SecretStore
    secrets: Callable[[str], Awaitable[set[Secret]]]
    interrupted: Callable[[SecretStore, Course], SecretStore] = interrupted_store
    has_leases: bool = False


@pytest.fixture(scope="session")
def fake_vessel() -> Vessel:
    store = FakeSecretStore()

    async def secrets(organization_id: str) -> set[Secret]:
        return {
            (ref.credential_id, number)
            for ref, versions in store._stored.items()
            if ref.organization_id == organization_id
            for number, stored in enumerate(versions, 1)
            if stored.key is not None
        }

    return Vessel(name="memory", store=store, secrets=secrets)


@pytest.fixture(scope="session")
def embedded_vessel(database: Database, owner: AsyncEngine) -> Vessel:
    async def secrets(organization_id: str) -> set[Secret]:
        rows = await fetch(
            owner,
            "SELECT credential_id, store_version FROM sealed_secret"
            " WHERE organization_id = :organization_id AND sealed IS NOT NULL",
            organization_id=organization_id,
        )
        return {(row["credential_id"], row["store_version"]) for row in rows}

    return Vessel(
        name="the embedded store", store=EmbeddedSecretStore(database, Keyset.generate()), secrets=secrets
    )


@pytest.fixture(scope="session")
def direct_wire() -> DirectWire:
    return DirectWire(FakeVault())


@pytest.fixture(scope="session")
async def vault_vessel(direct_wire: DirectWire) -> AsyncIterator[Vessel]:
    """The Vault adapter over the fake, with a step at every HTTP call."""
    async with (
        prepared_vault(
            "http://vault.test", ROOT, connect=lambda: Interruptible(WiredVault(direct_wire))
        ) as vault,
        vault.store() as store,
    ):
        yield _vault_vessel("Vault's fake", vault, store)


@pytest.fixture(scope="session")
async def real_vault_vessel() -> AsyncIterator[Vessel]:
    """The Vault adapter over a real server, each role logged in by itself."""
    async with AsyncExitStack() as stack:
        server = stack.enter_context(real_server())
        vault = await stack.enter_async_context(
            prepared_vault(
                server.address, server.token, connect=lambda: Interruptible(VaultServer(server.address))
            )
        )
        store = await stack.enter_async_context(vault.store(await vault.logins()))
        yield _vault_vessel("a real Vault", vault, store)


def _vault_vessel(name: str, vault: Prepared, store: VaultSecretStore) -> Vessel:
    return Vessel(
        name=name, store=store, secrets=vault.secrets_of, interrupted=interrupted_vault, has_leases=True
    )


@pytest.fixture(params=["fake_vessel", "embedded_vessel", "vault_vessel"])
def vessel(request: pytest.FixtureRequest) -> Vessel:
    found: Vessel = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=["fake_vessel", "vault_vessel"])
def quick_vessel(request: pytest.FixtureRequest) -> Vessel:
    """Those in memory: for what takes thousands of runs."""
    found: Vessel = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=["vault_vessel", *(["real_vault_vessel"] if is_there() else [])])
def any_vault_vessel(request: pytest.FixtureRequest) -> Vessel:
    found: Vessel = request.getfixturevalue(request.param)
    return found


MakeCaller = Callable[[], Caller]


@pytest.fixture
def make_caller() -> MakeCaller:
    """Each call: an admin of a new organization."""
    return lambda: Caller(
        subject="ada@example.com", organization_id=f"org_{uuid4().hex[:16]}", request_id="req_test"
    )
