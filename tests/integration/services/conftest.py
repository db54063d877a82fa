"""What the services' tests share: organizations, and the stores over which the order of writes must hold."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TypeAlias
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.auth.principal import Caller
from app.core.services import Services
from app.database.engine import Database, DatabaseLogin
from app.secret_store.embedded.keyset import Keyset
from app.secret_store.embedded.store import EmbeddedSecretStore
from app.secret_store.vault.client import VaultServer
from tests.databases import new_database
from tests.direct_vault import DirectWire, WiredVault
from tests.fake_vault import ROOT, FakeVault
from tests.fakes import FakeSecretStore
from tests.integration.secret_store.server import is_there, real_server
from tests.integration.secret_store.vaults import prepared_vault
from tests.integration.services.deeds import rotation
from tests.integration.services.interrupting import TRIED
from tests.integration.services.soundness import Bench
from tests.integration.services.vessels import Secret, Vessel, over_vault
from tests.integration.services.workplace import Workplace, make_key
from tests.interrupted_vault import Interruptible
from tests.rows import fetch


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if TRIED:
        tried = ", ".join(f"{times} times over {store}" for store, times in TRIED.items())
        terminalreporter.write_line(f"Order of writes: interrupted {tried}.")


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
        yield over_vault("Vault's fake", vault, store)


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
        yield over_vault("a real Vault", vault, store)


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


@pytest.fixture(scope="module")
async def own_url(server_url: sa.URL) -> AsyncIterator[sa.URL]:
    """A database in which a module's tests alone have work to do, for those that look at everybody's."""
    async with new_database(server_url) as url:
        yield url


@pytest.fixture(scope="module")
async def own_engine(own_url: sa.URL) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(own_url)
    yield engine
    await engine.dispose()


@pytest.fixture(scope="module")
async def own_database(own_url: sa.URL) -> AsyncIterator[Database]:
    database = Database(DatabaseLogin(url=own_url, set_role=True))
    yield database
    await database.close()


MakeCaller: TypeAlias = Callable[[], Caller]
MakeWorkplace: TypeAlias = Callable[[Vessel], Workplace]
MakeBench: TypeAlias = Callable[[Vessel, int], Awaitable[Bench]]


@pytest.fixture
def make_caller() -> MakeCaller:
    """Each call: an admin of a new organization."""
    return lambda: Caller(
        subject="ada@example.com", organization_id=f"org_{uuid4().hex[:16]}", request_id="req_test"
    )


@pytest.fixture
def make_workplace(
    services: Services, database: Database, owner: AsyncEngine, make_caller: MakeCaller
) -> MakeWorkplace:
    return lambda vessel: Workplace(
        services=services, database=database, owner=owner, vessel=vessel, caller=make_caller()
    )


@pytest.fixture
def make_bench(make_workplace: MakeWorkplace) -> MakeBench:
    """A credential that was given so many keys."""

    async def make(vessel: Vessel, keys: int) -> Bench:
        place, key = make_workplace(vessel), make_key()
        record = await place.register(place.healthy, key)
        bench = Bench(place=place, credential_id=record.id, keys=[key])
        for _ in range(keys - 1):
            await rotation()(bench, place.healthy)
        return bench

    return make
