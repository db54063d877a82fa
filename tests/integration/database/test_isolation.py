"""Transactions have the isolation and the search path that the service needs, whatever the operator's defaults are.

In a stricter isolation, a statement that has waited for a lock does not see what was committed meanwhile.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from app.database.connections import connect, read_only_transaction
from app.database.engine import Database, DatabaseLogin
from app.database.statements import Query
from tests.support.database.cells import schema_of_run
from tests.support.database.own_database import DatabaseRoles

_SETTINGS = Query(
    sa.text(
        "SELECT current_setting('transaction_isolation') AS isolation, current_setting('search_path') AS search_path"
    )
)
_OTHER_DEFAULTS = {"options": r"-c default_transaction_isolation=repeatable\ read -c search_path=elsewhere"}
_NEEDED = [("read committed", schema_of_run())]


def found_in(rows: Sequence[Any]) -> list[tuple[str, str]]:
    return [(row["isolation"], row["search_path"]) for row in rows]


@pytest.fixture(params=["direct", "pooled"])
async def strict(request: pytest.FixtureRequest, database_roles: DatabaseRoles) -> AsyncIterator[Database]:
    """A login with another default. Marked as pooled, the service keeps no settings in its session."""
    url = database_roles.service.update_query_dict(_OTHER_DEFAULTS)
    direct = url
    if request.param == "pooled":
        url = url.update_query_dict({"pgbouncer": "true"})
    database = Database(DatabaseLogin(url=url, set_role=False, direct_url=direct))
    yield database
    await database.close()


@pytest.mark.parametrize("read_only", [False, True])
async def test_a_transaction_sees_what_is_committed_while_it_runs(
    strict: Database, *, read_only: bool
) -> None:
    async with strict.session("org_acme", read_only=read_only) as session:
        assert found_in(await session.rows(_SETTINGS)) == _NEEDED


async def test_a_snapshot_stays_one(strict: Database) -> None:
    async with strict.session("org_acme", read_only=True, is_snapshot=True) as session:
        assert found_in(await session.rows(_SETTINGS)) == [("repeatable read", schema_of_run())]


async def test_a_statement_outside_a_transaction_has_the_same(strict: Database) -> None:
    assert found_in(await strict.autocommit_read("org_acme").rows(_SETTINGS)) == _NEEDED
    assert found_in(await strict.autocommit_call("org_acme").rows(_SETTINGS)) == _NEEDED


async def test_commands_have_the_same(database_roles: DatabaseRoles) -> None:
    connection = await connect(database_roles.owner.update_query_dict(_OTHER_DEFAULTS))
    try:
        async with connection.transaction():
            assert found_in([await connection.fetchrow(_SETTINGS.text)]) == [("read committed", "public")]
    finally:
        await connection.close()


async def test_checks_of_a_server_are_not_serializable(database_roles: DatabaseRoles) -> None:
    """A standby refuses each serializable transaction, and then `byok doctor` could not say that it is one."""
    strict = {"options": "-c default_transaction_isolation=serializable"}
    async with read_only_transaction(database_roles.service.update_query_dict(strict)) as connection:
        assert await connection.fetchval("SHOW transaction_isolation") == "read committed"
