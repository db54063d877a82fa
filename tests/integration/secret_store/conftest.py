"""Every adapter of the port, by name: once at work, once with nothing behind it."""

from collections.abc import AsyncIterator, Callable
from uuid import uuid4

import pytest
import sqlalchemy as sa

from app.core.database import Database, DatabaseLogin
from app.secret_store.base import SecretRef, SecretStore
from app.secret_store.embedded import EmbeddedSecretStore
from app.secret_store.keyset import Keyset
from tests.fakes import FakeSecretStore


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


# Vault joins here, with its fixtures above.
@pytest.fixture(params=["fake", "embedded"])
def store(request: pytest.FixtureRequest) -> SecretStore:
    found: SecretStore = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=["unreachable_fake", "unreachable_embedded"])
def unreachable_store(request: pytest.FixtureRequest) -> SecretStore:
    found: SecretStore = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def make_ref() -> Callable[[], SecretRef]:
    return lambda: SecretRef(organization_id=f"org_{uuid4().hex}", credential_id=uuid4())


@pytest.fixture
def ref(make_ref: Callable[[], SecretRef]) -> SecretRef:
    return make_ref()
