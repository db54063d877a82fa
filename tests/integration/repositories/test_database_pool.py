"""The pool lets go: also of a connection that never comes back."""

import pytest
import sqlalchemy as sa

from app.core.errors import DatabaseUnavailable
from app.database.engine import Database, DatabaseLogin


class TestClose:
    async def test_does_not_wait_for_ever_for_a_connection_that_is_out(self, owner_url: sa.URL) -> None:
        database = Database(DatabaseLogin(url=owner_url, set_role=True), timeout_seconds=1)
        session = database.session("org_acme")
        await session.__aenter__()

        await database.close()

        assert database.connections_in_use == 0
        with pytest.raises(DatabaseUnavailable):
            await session.__aexit__(None, None, None)
