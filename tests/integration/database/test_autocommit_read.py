"""A read without BEGIN sees the rows of its organization, whatever plan PostgreSQL chooses, and leaves nothing behind."""

import asyncio
import os
from collections.abc import Sequence
from uuid import uuid4

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.errors import DatabaseUnavailable
from app.database.engine import Database, DatabaseLogin
from app.database.sessions import NotASelect
from app.database.statements import Query
from tests.support.database.own_database import DatabaseRoles
from tests.support.database.rows import change

# Neither has a WHERE clause: only the policy chooses the rows.
_PLANS = Query(sa.text("SELECT organization_id, plan FROM subscription"))
_DAYS = Query(sa.text("SELECT day FROM endpoint_count ORDER BY day DESC LIMIT 5"))
_SETTING = Query(sa.text("SELECT coalesce(current_setting('byok.org', true), '') AS organization_id"))


@pytest.fixture
async def organizations(superuser: AsyncEngine) -> Sequence[str]:
    """Three organizations with a subscription and 20 endpoint counts each."""
    ids = [f"org_{uuid4().hex[:12]}" for _ in range(3)]
    for organization in ids:
        await change(
            superuser,
            "INSERT INTO subscription VALUES (:organization, 'x', 1, 1, 1, 1, now(), now(), 'x')",
            organization=organization,
        )
        await change(
            superuser,
            "INSERT INTO endpoint_count SELECT :organization, date '2026-10-01' + day, 1, now(), 'x'"
            " FROM generate_series(0, 19) AS day",
            organization=organization,
        )
    return ids


async def organizations_seen(database: Database, organization: str) -> list[str]:
    rows = await database.autocommit_read(organization).rows(_PLANS)
    return [row["organization_id"] for row in rows]


class TestAutocommitRead:
    async def test_sees_only_its_organization(self, database: Database, organizations: Sequence[str]) -> None:
        for organization in organizations:
            assert await organizations_seen(database, organization) == [organization]
        assert await organizations_seen(database, "org_without_rows") == []

    async def test_concurrent_ones_do_not_mix(self, database: Database, organizations: Sequence[str]) -> None:
        asked = [*organizations] * 40

        found = await asyncio.gather(*(organizations_seen(database, organization) for organization in asked))

        assert found == [[organization] for organization in asked]

    @pytest.mark.parametrize(
        "disabled",
        [
            ("nestloop",),
            ("hashjoin", "mergejoin"),
            ("indexscan", "indexonlyscan", "bitmapscan"),
            ("seqscan",),
            ("material", "sort"),
        ],
        ids=",".join,
    )
    async def test_does_not_depend_on_the_plan(
        self, database_roles: DatabaseRoles, organizations: Sequence[str], disabled: tuple[str, ...]
    ) -> None:
        options = " ".join(f"-c enable_{name}=off" for name in disabled)
        url = database_roles.service.update_query_dict({"options": options})
        database = Database(DatabaseLogin(url=url, set_role=False), pool_size=1)
        try:
            for organization in organizations:
                assert await organizations_seen(database, organization) == [organization]
                days = [row["day"].day for row in await database.autocommit_read(organization).rows(_DAYS)]
                assert days == [20, 19, 18, 17, 16]
        finally:
            await database.close()

    async def test_leaves_no_organization_on_the_connection(
        self, database_roles: DatabaseRoles, organizations: Sequence[str]
    ) -> None:
        database = Database(database_roles.login, pool_size=1)
        try:
            assert await organizations_seen(database, organizations[0]) == [organizations[0]]
            async with database.session(None, read_only=True) as session:
                assert (await session.one(_SETTING))["organization_id"] == ""
                assert await session.rows(_PLANS) == []
        finally:
            await database.close()

    async def test_quotes_no_organization_id(self, database: Database) -> None:
        if "BYOK_TEST_CELLS" in os.environ:  # a transaction refuses it
            with pytest.raises(ValueError, match="not an organization id"):
                await organizations_seen(database, "org'; SELECT 1 --")
        else:
            assert await organizations_seen(database, "org'; SELECT 1 --") == []

    async def test_changes_nothing(self, database: Database, organizations: Sequence[str]) -> None:
        delete = Query(sa.text("DELETE FROM subscription RETURNING organization_id"))
        with pytest.raises(NotASelect):
            await database.autocommit_read(organizations[0]).execute(delete)
        # In cells, it is the only statement of a read-only transaction.
        in_cells = "BYOK_TEST_CELLS" in os.environ
        with pytest.raises(DatabaseUnavailable if in_cells else asyncpg.PostgresSyntaxError):
            await database.autocommit_read(organizations[0]).rows(delete)

        assert await organizations_seen(database, organizations[0]) == [organizations[0]]

    async def test_survives_a_connection_that_the_server_closed(
        self, database_roles: DatabaseRoles, superuser: AsyncEngine, organizations: Sequence[str]
    ) -> None:
        name = f"byok-{uuid4().hex[:8]}"
        url = database_roles.service.update_query_dict({"application_name": name})
        database = Database(DatabaseLogin(url=url, set_role=False), pool_size=1)
        try:
            await organizations_seen(database, organizations[0])
            await change(
                superuser,
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = :name",
                name=name,
            )

            assert await organizations_seen(database, organizations[0]) == [organizations[0]]
        finally:
            await database.close()
