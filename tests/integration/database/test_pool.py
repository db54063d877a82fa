"""The pool closes even if a connection is never returned."""

import pytest

from app.core.errors import DatabaseUnavailable
from app.database.engine import Database
from tests.support.database.own_database import DatabaseRoles


class TestClose:
    async def test_does_not_wait_forever_for_a_connection_that_is_in_use(
        self, database_roles: DatabaseRoles
    ) -> None:
        database = Database(database_roles.login, timeout_seconds=1)
        session = database.session("org_acme")
        await session.__aenter__()

        await database.close()

        assert database.connections_in_use == 0
        with pytest.raises(DatabaseUnavailable):
            await session.__aexit__(None, None, None)
