"""A separate database, because the commands work on the secrets of all organizations in it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from app.core.services import Services
from app.database.engine import Database
from tests.support.database.own_database import DatabaseRoles, copied_database
from tests.support.secret_maintenance.installation import Installation


@pytest.fixture(scope="session")
async def maintenance_roles(template_database: DatabaseRoles) -> AsyncIterator[DatabaseRoles]:
    async with copied_database(template_database) as roles:
        yield roles


@pytest.fixture
async def installation(
    maintenance_roles: DatabaseRoles, services: Services, tmp_path: Path
) -> AsyncIterator[Installation]:
    """An installation with secrets in the embedded store."""
    superuser = create_async_engine(maintenance_roles.superuser)
    database = Database(maintenance_roles.login)
    installation = Installation(
        base_services=services,
        database=database,
        superuser=superuser,
        keyset_path=tmp_path / "secret-store" / "keyset.json",
    )
    await installation.reset()
    await installation.fill()
    yield installation
    await database.close()
    await superuser.dispose()
