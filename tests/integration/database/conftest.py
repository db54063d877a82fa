"""A separate database with cells for each test that needs one."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from app.composition.bootstrap import open_services
from app.composition.database_access import DatabaseAccess
from app.main import create_app
from app.settings.settings import Settings
from tests.support.database.celled import Celled
from tests.support.database.own_database import DatabaseRoles, copied_database, run_as_superuser
from tests.support.tenant import MakeToken


@pytest.fixture
def cell_template(
    request: pytest.FixtureRequest, template_database: DatabaseRoles, in_first_cell: None
) -> DatabaseRoles:
    """With two cells if the test requests `celled`, and otherwise without cells."""
    if "celled" not in request.fixturenames:
        return template_database
    with_cells: DatabaseRoles = request.getfixturevalue("template_with_cells")
    return with_cells


@pytest.fixture
async def cell_roles(cell_template: DatabaseRoles) -> AsyncIterator[DatabaseRoles]:
    async with copied_database(cell_template) as roles:
        yield roles


@pytest.fixture
def cell_access(cell_roles: DatabaseRoles) -> DatabaseAccess:
    return access_to(cell_roles)


def access_to(roles: DatabaseRoles) -> DatabaseAccess:
    return DatabaseAccess(owner=roles.owner, login=roles.login)


@pytest.fixture
async def celled(
    cell_roles: DatabaseRoles, cell_access: DatabaseAccess, settings: Settings, make_token: MakeToken
) -> AsyncIterator[Celled]:
    await run_as_superuser(cell_roles, "UPDATE cells.cell SET takes_new = (name = 'cell_1')")
    async with open_services(settings, cell_access) as services:

        class _Opened(AsyncExitStack):
            async def __aenter__(self) -> Any:
                return services

        app = create_app(_Opened())
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://byok.test") as http,
        ):
            yield Celled(roles=cell_roles, services=services, http=http, token=make_token("service"))
