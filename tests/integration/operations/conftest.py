"""A database that the commands have to themselves: they look at everybody's secrets in it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from app.core.services import Services
from app.database.engine import Database, DatabaseLogin
from tests.databases import new_database
from tests.integration.operations.installation import Installation
from tests.integration.secret_store.conftest import (  # noqa: F401  # fixtures
    any_vault,
    prepared,
    prepared_fake,
    shared_vault,
    vault_server,
)


@pytest.fixture(scope="session")
async def own_database(server_url: sa.URL) -> AsyncIterator[sa.URL]:
    async with new_database(server_url) as url:
        yield url


@pytest.fixture
async def installation(
    own_database: sa.URL, services: Services, tmp_path: Path
) -> AsyncIterator[Installation]:
    """Filled."""
    owner = create_async_engine(own_database)
    database = Database(DatabaseLogin(url=own_database, set_role=True))
    installation = Installation(
        parts=services,
        database=database,
        owner=owner,
        keyset_path=tmp_path / "secret-store" / "keyset.json",
    )
    await installation.empty()
    await installation.fill()
    yield installation
    await database.close()
    await owner.dispose()
