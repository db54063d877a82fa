"""The pool closes even if a connection is never returned, and new connections need no queries about types."""

import pytest

from app.core.errors import DatabaseUnavailable
from app.database.connections import connect
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


class TestTypes:
    @pytest.mark.parametrize("array", ["timestamptz[]", "numeric[]", "uuid[]"])
    async def test_a_new_connection_knows_what_an_earlier_one_has_looked_up(
        self, database_roles: DatabaseRoles, array: str
    ) -> None:
        query, queries = f"SELECT $1::{array}", list[str]()
        first, second = [await connect(database_roles.login.session_url) for _ in range(2)]
        second.add_query_logger(lambda record: queries.append(record.query))

        assert await first.fetchval(query, []) == []
        assert await second.fetchval(query, []) == []

        for connection in (first, second):
            await connection.close()
        assert queries == [query]

    async def test_asks_for_the_types_of_its_own_database(self, database_roles: DatabaseRoles) -> None:
        for name in ("one", "other"):
            connection = await connect(database_roles.superuser)
            async with connection.transaction():
                await connection.execute(
                    f"CREATE TEMPORARY TABLE {name} (value numeric(9, 2)) ON COMMIT DROP"
                )
                found = await connection.fetchval(f"SELECT array_agg({name}) FROM {name}")
            assert found is None
            await connection.close()
