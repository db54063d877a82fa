"""What adding the first cell changes for the owner of the tables, and cells that a superuser has made."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
import sqlalchemy as sa

from app.database.connections import connect
from app.database.embedded.cluster import program
from app.database.migrations import MigrationFailed, create_cell, migrate
from app.database.roles import run_roles_script
from tests.support.database.migrating import downgrade
from tests.support.database.own_database import DatabaseRoles, copied_database, run_as_superuser

_REVISION = "c3d7e9a05b18"


@pytest.fixture
async def roles(template_database: DatabaseRoles) -> AsyncIterator[DatabaseRoles]:
    async with copied_database(template_database) as roles:
        yield roles


async def rows(url: sa.URL, *statements: str) -> list[tuple[object, ...]]:
    """Run statements in one transaction and return the rows of the last one."""
    connection = await connect(url)
    try:
        async with connection.transaction():
            found: list[asyncpg.Record] = [await connection.fetch(statement) for statement in statements][-1]
    finally:
        await connection.close()
    return [tuple(row) for row in found]


async def roles_of_policies(database: DatabaseRoles, cell: str) -> set[object]:
    found = await rows(
        database.owner,
        "SELECT DISTINCT unnest(roles)::text FROM pg_policies"
        f" WHERE schemaname = '{cell}' AND policyname = 'organization' AND tablename <> 'usage_fold'",
    )
    return {role for (role,) in found}


class TestPolicies:
    async def test_bind_only_the_service_until_a_cell_is_added(self, roles: DatabaseRoles) -> None:
        await migrate(roles.owner)
        assert await roles_of_policies(roles, "public") == {"byok_service"}

        await create_cell(roles.owner, "cell_1")

        assert await roles_of_policies(roles, "public") == {"public"}
        assert await roles_of_policies(roles, "cell_1") == {"public"}

    async def test_let_the_owner_in_to_tables_of_later_migrations(self, roles: DatabaseRoles) -> None:
        await create_cell(roles.owner, "cell_1")
        for cell in ("public", "cell_1"):
            await rows(
                roles.owner,
                f"CREATE TABLE {cell}.later (organization_id text)",
                f"ALTER TABLE {cell}.later ENABLE ROW LEVEL SECURITY",
                f"CREATE POLICY organization ON {cell}.later TO byok_service USING (true)",
            )

        await migrate(roles.owner)

        for cell in ("public", "cell_1"):
            assert await roles_of_policies(roles, cell) == {"public"}

    async def test_are_all_permissive(self, roles: DatabaseRoles) -> None:
        """Citus creates a restrictive policy on workers as a permissive one, which would let the service reach other rows."""
        await create_cell(roles.owner, "cell_1")

        assert await rows(roles.owner, "SELECT FROM pg_policies WHERE permissive <> 'PERMISSIVE'") == []

    async def test_let_the_owner_delete_mode_changes_only_in_a_move(self, roles: DatabaseRoles) -> None:
        await create_cell(roles.owner, "cell_1")
        await run_as_superuser(
            roles,
            "INSERT INTO cell_1.usage_mode_change (organization_id, effective_from, mode, changed_by, is_scheduled)"
            " VALUES ('org_x', now() - interval '1 day', 'managed', 'x', false)",
        )
        delete = "WITH gone AS (DELETE FROM cell_1.usage_mode_change RETURNING 1) SELECT count(*) FROM gone"

        assert await rows(roles.service, "SET LOCAL byok.org = 'org_x'", delete) == [(0,)]
        assert await rows(roles.owner, "SET LOCAL byok.org = 'org_x'", delete) == [(0,)]
        assert await rows(
            roles.owner, "SET LOCAL byok.org = 'org_x'", "SET LOCAL byok.moves = 'on'", delete
        ) == [(1,)]

    async def test_need_no_lock_on_tables_in_use_when_another_cell_is_added(
        self, roles: DatabaseRoles
    ) -> None:
        await create_cell(roles.owner, "cell_1")
        user = await connect(roles.service)
        async with user.transaction():
            await user.fetch("SELECT FROM public.audit_event")
            await migrate(roles.owner)
            await create_cell(roles.owner, "cell_2")
        await user.close()


class TestAuditLog:
    @pytest.mark.parametrize("cell", ["public", "cell_1"])
    async def test_keeps_younger_events_whatever_the_service_sets(
        self, roles: DatabaseRoles, cell: str
    ) -> None:
        await create_cell(roles.owner, "cell_1")
        await run_as_superuser(
            roles,
            *(
                f"INSERT INTO {cell}.audit_event (organization_id, id, occurred_at, action, actor, details)"
                f" VALUES ('org_x', gen_random_uuid(), now() - interval '{days} days', 'x', 'x', '{{}}')"
                for days in (1, 89, 91)
            ),
        )

        purged = await rows(
            roles.service,
            "SET LOCAL byok.org = 'org_x'",
            f"SELECT {cell}.purge_audit_events('infinity', 1000000)",
        )

        assert purged == [(1,)]
        assert await rows(roles.superuser, f"SELECT count(*) FROM {cell}.audit_event") == [(2,)]


class TestDirectory:
    async def test_places_new_organizations_in_the_first_cell_if_no_cell_takes_them(
        self, roles: DatabaseRoles
    ) -> None:
        await create_cell(roles.owner, "cell_1")
        await run_as_superuser(roles, "UPDATE cells.cell SET takes_new = false")

        await rows(roles.service, "SET LOCAL byok.org = 'org_x'", "SELECT cells.enter('public')")

        assert await rows(roles.owner, "SELECT * FROM cells.organization_cell") == [("org_x", "public")]

    async def test_is_not_dropped_while_there_are_cells(self, roles: DatabaseRoles) -> None:
        await create_cell(roles.owner, "cell_1")
        with pytest.raises(sa.exc.DBAPIError, match="There are cells"):
            await downgrade(roles.owner, f"{_REVISION}-1")

        await run_as_superuser(
            roles, "DROP SCHEMA cell_1 CASCADE", "DELETE FROM cells.cell WHERE name = 'cell_1'"
        )
        await downgrade(roles.owner, f"{_REVISION}-1")

        assert await roles_of_policies(roles, "public") == {"byok_service"}
        await migrate(roles.owner)


class TestCellOfASuperuser:
    async def test_is_not_skipped_and_can_be_handed_over(self, roles: DatabaseRoles) -> None:
        await create_cell(roles.superuser, "cell_1")
        with pytest.raises(MigrationFailed, match=r"Run docs/deploy/roles\.sql again"):
            await migrate(roles.owner)

        await asyncio.to_thread(
            run_roles_script,
            program("psql"),
            roles.superuser,
            database=roles.name,
        )

        lines: list[str] = []
        await migrate(roles.owner, progress=lines.append)
        assert lines == ["Migrating the cell cell_1 (1 of 1) ..."]
        assert await rows(
            roles.owner,
            "SELECT DISTINCT owner FROM (SELECT nspname AS schema, nspowner::regrole::text AS owner FROM pg_namespace"
            " UNION SELECT relnamespace::regnamespace::text, relowner::regrole::text FROM pg_class"
            " UNION SELECT pronamespace::regnamespace::text, proowner::regrole::text FROM pg_proc) AS owned"
            " WHERE schema = 'cell_1'",
        ) == [("byok_owner",)]
