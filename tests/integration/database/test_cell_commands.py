"""The commands for cells: add, delete, close and open."""

import asyncio
from dataclasses import replace
from uuid import uuid4

import pytest

from app.cell_commands import add_cell, delete, let_take_new, list_cells, move
from app.composition.bootstrap import open_services
from app.composition.database_access import DatabaseAccess
from app.composition.scaling_checks import check_cells
from app.database.migrations import current_revision, migrate
from app.secret_maintenance.progress import OperationRefused
from app.settings.environment import SettingsRefused
from app.settings.settings import Settings
from tests.support.database.celled import Celled, ingest
from tests.support.database.own_database import DatabaseRoles, run_as_superuser
from tests.support.polling import until
from tests.support.requests.usage_events import event

# The tables where row-level security also binds the owner.
_FORCED = """
    SELECT relname FROM pg_class
    WHERE relnamespace = 'cell_1'::regnamespace AND relforcerowsecurity ORDER BY relname
"""


class TestAdd:
    async def test_lists_existing_organizations_in_the_first_cell(
        self, cell_roles: DatabaseRoles, cell_access: DatabaseAccess, settings: Settings
    ) -> None:
        await run_as_superuser(
            cell_roles,
            "INSERT INTO job_queue VALUES ('org_a', 'fold_usage', gen_random_uuid(), now())",
            "INSERT INTO usage_fold (organization_id, folded_before, wide_folded_before, folded_at)"
            " VALUES ('org_b', 0, 0, now())",
        )
        assert (await list_cells(settings, cell_access))[0].organizations is None

        await add_cell(settings, cell_access, "cell_1")

        assert [(it.name, it.organizations) for it in await list_cells(settings, cell_access)] == [
            ("public", 2),
            ("cell_1", 0),
        ]

    async def test_needs_all_instances_stopped_the_first_time(
        self, cell_access: DatabaseAccess, settings: Settings
    ) -> None:
        async with open_services(settings, cell_access):
            with pytest.raises(OperationRefused, match="stop every"):
                await add_cell(settings, cell_access, "cell_1")
        await add_cell(settings, cell_access, "cell_1")
        async with open_services(settings, cell_access):
            await add_cell(settings, cell_access, "cell_2")
        assert "3 cells" in (await check_cells(cell_access.login)).text

    @pytest.mark.parametrize(
        "name",
        [
            "public",
            "cells",
            "pg_x",
            "information_schema",
            "byok_owner",
            "byok_app",
            "byok_1",
            "Cell",
            "a;b",
            "a" * 40,
        ],
    )
    async def test_refuses_other_names(
        self, cell_access: DatabaseAccess, settings: Settings, name: str
    ) -> None:
        with pytest.raises(OperationRefused, match="must be lower-case"):
            await add_cell(settings, cell_access, name)

    async def test_refuses_the_name_of_a_role(
        self, cell_roles: DatabaseRoles, cell_access: DatabaseAccess, settings: Settings
    ) -> None:
        name = f"login_{uuid4().hex[:12]}"
        await run_as_superuser(cell_roles, f"CREATE ROLE {name}")
        try:
            with pytest.raises(OperationRefused, match="role"):
                await add_cell(settings, cell_access, name)
        finally:
            await run_as_superuser(cell_roles, f"DROP ROLE {name}")

    async def test_migrates_every_cell(self, celled: Celled) -> None:
        lines: list[str] = []
        await migrate(celled.roles.owner, progress=lines.append)
        assert lines == [
            "Migrating the cell cell_1 (1 of 2) ...",
            "Migrating the cell cell_2 (2 of 2) ...",
        ]
        await run_as_superuser(celled.roles, "UPDATE cell_2.alembic_version SET version_num = 'a5c8e1f47b20'")
        assert await current_revision(celled.roles.service) == "a5c8e1f47b20"

    async def test_no_function_of_a_cell_uses_another_one(self, celled: Celled) -> None:
        found = await celled.rows(
            "SELECT proname FROM pg_proc WHERE pronamespace = 'cell_1'::regnamespace"
            " AND (prosrc ~ '\\mpublic\\M' OR array_to_string(proconfig, ' ') ~ '\\mpublic\\M'"
            " OR coalesce(pg_get_function_sqlbody(oid), '') ~ '\\mpublic\\M')"
        )
        assert found == []


class TestDelete:
    async def test_removes_an_empty_cell(
        self, celled: Celled, cell_access: DatabaseAccess, settings: Settings
    ) -> None:
        tenant = celled.tenant()
        await ingest(tenant, event())
        await celled.move(tenant, "cell_2")

        await delete(settings, cell_access, "cell_1")

        assert [cell.name for cell in await list_cells(settings, cell_access)] == ["public", "cell_2"]
        assert await celled.rows("SELECT FROM pg_namespace WHERE nspname = 'cell_1'") == []
        assert (await ingest(tenant, event())).status_code == 200
        assert (await ingest(celled.tenant(), event())).status_code == 200

    async def test_is_refused_while_an_organization_lives_there(
        self, celled: Celled, cell_access: DatabaseAccess, settings: Settings
    ) -> None:
        tenant = celled.tenant()
        await ingest(tenant, event())
        before = await list_cells(settings, cell_access)

        with pytest.raises(OperationRefused, match=f"The organization {tenant.organization} lives in"):
            await delete(settings, cell_access, "cell_1")

        assert await celled.count("cell_1", "usage_event", tenant) == 1
        assert await list_cells(settings, cell_access) == before
        assert [cell.takes_new for cell in before] == [False, True, False]

    @pytest.mark.parametrize(("count", "more"), [(2, ""), (10, ""), (11, " and 1 more")])
    async def test_names_up_to_ten_organizations_that_live_there(
        self, celled: Celled, cell_access: DatabaseAccess, settings: Settings, count: int, more: str
    ) -> None:
        names = [f"org_{number:02}" for number in range(count)]
        await run_as_superuser(
            celled.roles,
            *(f"INSERT INTO cells.organization_cell VALUES ('{name}', 'cell_1')" for name in names),
        )

        with pytest.raises(OperationRefused) as refused:
            await delete(settings, cell_access, "cell_1")

        text = f"{count} organizations live in the cell: {', '.join(names[:10])}{more}. Next:"
        assert str(refused.value).startswith(text)

    async def test_changes_nothing_if_a_transaction_in_the_cell_does_not_end(
        self, celled: Celled, cell_access: DatabaseAccess, settings: Settings
    ) -> None:
        before = await list_cells(settings, cell_access)
        async with celled.transaction("SELECT FROM cells.cell WHERE name = 'cell_1' FOR KEY SHARE"):
            with pytest.raises(OperationRefused, match="byok cells close cell_1"):
                await delete(settings, cell_access, "cell_1")
        async with celled.transaction("LOCK TABLE cell_1.usage_event IN ACCESS SHARE MODE"):
            with pytest.raises(OperationRefused, match="byok cells close cell_1"):
                await delete(settings, cell_access, "cell_1")

        assert await list_cells(settings, cell_access) == before

    async def test_is_refused_while_a_stopped_move_has_left_rows(
        self, celled: Celled, cell_access: DatabaseAccess, settings: Settings
    ) -> None:
        tenant = celled.tenant()
        await ingest(tenant, event())
        await celled.move(tenant, "cell_2")
        await run_as_superuser(
            celled.roles, "INSERT INTO cell_1.usage_event_key SELECT * FROM cell_2.usage_event_key"
        )

        before = await list_cells(settings, cell_access), await celled.rows(_FORCED)

        with pytest.raises(OperationRefused, match=f"byok cells move {tenant.organization}"):
            await delete(settings, cell_access, "cell_1")

        assert (await list_cells(settings, cell_access), await celled.rows(_FORCED)) == before
        assert ("usage_event",) in before[1]
        await move(settings, cell_access, tenant.organization, "cell_2", lambda _: None)
        await delete(settings, cell_access, "cell_1")

    async def test_lets_a_new_organization_that_chose_it_begin_again(self, celled: Celled) -> None:
        tenant = celled.tenant()
        async with celled.transaction(
            "SELECT FROM cells.cell WHERE name = 'cell_1' FOR UPDATE"
        ) as connection:
            ingesting = asyncio.create_task(ingest(tenant, event()))
            await until(
                lambda: celled.rows(
                    "SELECT FROM pg_stat_activity WHERE datname = current_database() AND usename = 'byok_app'"
                    " AND wait_event_type = 'Lock'"
                ),
                bool,
            )
            await connection.execute("DROP SCHEMA cell_1 CASCADE")
            await connection.execute("DELETE FROM cells.cell WHERE name = 'cell_1'")

        assert (await ingesting).status_code == 200
        assert await celled.cell_of(tenant) == "public"

    async def test_refuses_the_first_cell_and_unknown_ones(
        self, celled: Celled, cell_access: DatabaseAccess, settings: Settings
    ) -> None:
        assert await celled.rows("SELECT FROM cells.cell")
        with pytest.raises(OperationRefused, match="first cell"):
            await delete(settings, cell_access, "public")
        with pytest.raises(OperationRefused, match="no such cell"):
            await delete(settings, cell_access, "cell_9")

    async def test_the_next_cell_needs_all_instances_stopped_again(
        self, cell_access: DatabaseAccess, settings: Settings
    ) -> None:
        await add_cell(settings, cell_access, "cell_1")
        await delete(settings, cell_access, "cell_1")
        async with open_services(settings, cell_access):
            with pytest.raises(OperationRefused, match="stop every"):
                await add_cell(settings, cell_access, "cell_1")


class TestClose:
    async def test_sends_new_organizations_elsewhere(
        self, celled: Celled, cell_access: DatabaseAccess, settings: Settings
    ) -> None:
        tenants = [celled.tenant(), celled.tenant()]
        await let_take_new(settings, cell_access, "cell_2", takes_new=True)
        await let_take_new(settings, cell_access, "cell_1", takes_new=False)
        await ingest(tenants[0], event())
        await let_take_new(settings, cell_access, "cell_1", takes_new=True)
        await let_take_new(settings, cell_access, "cell_2", takes_new=False)
        await ingest(tenants[1], event())

        assert [await celled.cell_of(tenant) for tenant in tenants] == ["cell_2", "cell_1"]


class TestReplicaOfCells:
    async def test_is_refused_by_a_start_and_by_the_command_that_adds_one(
        self, cell_roles: DatabaseRoles, cell_access: DatabaseAccess, settings: Settings
    ) -> None:
        with_replica = replace(cell_access, reports=cell_roles.login)
        with pytest.raises(SettingsRefused, match=r"DATABASE__REPORTS_URL.*not supported with cells"):
            await add_cell(settings, with_replica, "cell_1")

        await add_cell(settings, cell_access, "cell_1")

        with pytest.raises(SettingsRefused, match=r"DATABASE__REPORTS_URL.*not supported with cells"):
            async with open_services(settings, with_replica):
                pass
