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

    async def test_a_type_of_a_database_is_looked_up_in_each_session(
        self, database_roles: DatabaseRoles
    ) -> None:
        owner = await connect(database_roles.superuser)
        await owner.execute("CREATE TYPE pair AS (first integer)")
        query = "SELECT $1::pair, $2::interval[]"
        try:
            assert await owner.fetchval(query, (1,), []) == (1,)
            await owner.execute("ALTER TYPE pair ADD ATTRIBUTE second integer")
            later = await connect(database_roles.superuser)

            assert await later.fetchval("SELECT $1::interval[]", []) == []
            assert await later.fetchval(query, (1, 2), []) == (1, 2)
            await later.close()
        finally:
            await owner.execute("DROP TYPE pair")
            await owner.close()
