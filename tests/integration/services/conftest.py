"""What the services' tests share: organizations, and the stores over which the order of writes must hold."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID, uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.database import Database
from app.domain.auth import Caller
from app.secret_store.base import SecretStore
from app.secret_store.embedded import EmbeddedSecretStore
from app.secret_store.keyset import Keyset
from tests.fakes import FakeSecretStore
from tests.rows import fetch

Secret = tuple[UUID, int]


@dataclass(frozen=True, kw_only=True)
class Vessel:
    """A secret store, and a look past its port at which secrets of an organization rest in it."""

    store: SecretStore
    secrets: Callable[[str], Awaitable[set[Secret]]]


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

    return Vessel(store=store, secrets=secrets)


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

    return Vessel(store=EmbeddedSecretStore(database, Keyset.generate()), secrets=secrets)


@pytest.fixture(params=["fake_vessel", "embedded_vessel"])
def vessel(request: pytest.FixtureRequest) -> Vessel:
    found: Vessel = request.getfixturevalue(request.param)
    return found


MakeCaller = Callable[[], Caller]


@pytest.fixture
def make_caller() -> MakeCaller:
    """Each call: an admin of a new organization."""
    return lambda: Caller(
        subject="ada@example.com", organization_id=f"org_{uuid4().hex[:16]}", request_id="req_test"
    )
