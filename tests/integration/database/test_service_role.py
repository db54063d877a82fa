"""What the service's role may do: no more than it needs, on every connection."""

import asyncio
from contextlib import suppress
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.engine import Database, DatabaseLogin
from app.database.statements import Query
from tests.support.database.own_database import DatabaseRoles
from tests.support.database.row_level_security import GUARDED, UNGUARDED, execute, rows
from tests.support.database.rows import fetch
from tests.support.tenant import Tenant

LEDGERS = {"ensure_usage_partitions", "drop_usage_partitions", "purge_usage_event_keys"}
PURGES = {
    "purge_idempotency_keys",
    "purge_rate_counters",
    "purge_spend_reservations",
    "purge_webhook_deliveries",
    "purge_audit_events",
    "purge_export_links",
}
LISTS = {"sealed_credentials", "unmoved_credentials", "moved_credentials", "credentials_with_keys"}
RELAY = {"organizations_with_lost_calls"}


class TestRole:
    async def test_is_only_a_member_of_the_services_role(self, database: Database) -> None:
        (role,) = await rows(
            database,
            None,
            "SELECT rolname, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb,"
            " ARRAY(SELECT roleid::regrole::text FROM pg_auth_members WHERE member = pg_roles.oid) AS member_of"
            " FROM pg_roles WHERE rolname = session_user",
        )

        assert dict(role) == {"rolname": "byok_app", "member_of": ["byok_service"]} | dict.fromkeys(
            ("rolsuper", "rolbypassrls", "rolcreaterole", "rolcreatedb"), False
        )

    async def test_of_the_owner_is_not_the_services_and_has_no_powers(self, superuser: AsyncEngine) -> None:
        (role,) = await fetch(
            superuser,
            "SELECT rolsuper, rolbypassrls, rolcreaterole, rolcreatedb,"
            " ARRAY(SELECT roleid::regrole::text FROM pg_auth_members WHERE member = pg_roles.oid) AS member_of"
            " FROM pg_roles WHERE rolname = 'byok_owner'",
        )

        assert role == {"member_of": []} | dict.fromkeys(
            ("rolsuper", "rolbypassrls", "rolcreaterole", "rolcreatedb"), False
        )

    async def test_owns_nothing_and_the_owner_owns_everything(self, superuser: AsyncEngine) -> None:
        found = await fetch(
            superuser,
            "SELECT relowner::regrole::text AS name FROM pg_class WHERE relnamespace = 'public'::regnamespace"
            " AND oid <> ALL (SELECT objid FROM pg_depend WHERE deptype = 'e')"
            " UNION SELECT proowner::regrole::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
            " AND oid <> ALL (SELECT objid FROM pg_depend WHERE deptype = 'e')",
        )

        assert [row["name"] for row in found] == ["byok_owner"]

    @pytest.mark.parametrize("end", ["commit", "roll back", "fail", "be cancelled"])
    async def test_stays_on_a_connection_however_its_first_transaction_ends(
        self, database_roles: DatabaseRoles, end: str
    ) -> None:
        database = Database(DatabaseLogin(url=database_roles.superuser, set_role=True), pool_size=1)
        with suppress(asyncpg.PostgresError, asyncio.CancelledError):
            async with database.session(None) as session:
                if end == "commit":
                    await session.commit()
                elif end == "fail":
                    await session.execute(Query(sa.text("SELECT 1 / 0")))
                elif end == "be cancelled":
                    raise asyncio.CancelledError

        found = [await rows(database, None, "SELECT current_user AS name") for _ in range(2)]

        assert [row["name"] for (row,) in found] == ["byok_service"] * 2
        await database.close()

    async def test_may_do_no_more_than_it_needs(self, superuser: AsyncEngine) -> None:
        found = await fetch(
            superuser,
            "SELECT table_name, privilege_type FROM information_schema.table_privileges"
            " WHERE grantee = 'byok_service' AND table_schema = 'public'",
        )

        granted: dict[str, set[str]] = {}
        for row in found:
            granted.setdefault(row["table_name"], set()).add(row["privilege_type"])
        assert set(granted) == GUARDED | UNGUARDED
        assert granted["audit_event"] == {"SELECT", "INSERT"}
        assert granted["usage_event"] == granted["usage_event_key"] == {"SELECT", "INSERT"}
        assert granted["usage_object"] == granted["usage_request_key"] == {"SELECT", "INSERT"}
        assert granted["statement"] == granted["statement_line"] == {"SELECT", "INSERT"}
        assert granted["usage_event"] == granted["usage_event_key"] == {"SELECT", "INSERT"}
        assert granted["subscription"] == granted["endpoint_count"] == {"SELECT", "INSERT", "UPDATE"}
        assert granted["usage_mode_change"] == {"SELECT", "INSERT", "DELETE"}
        assert granted["alembic_version"] == {"SELECT"}
        assert granted["sealing_keyset"] == {"SELECT", "INSERT", "UPDATE"}
        assert "DELETE" not in granted["sealed_secret"] | granted["credential_validation"]
        allowed = {"SELECT", "INSERT", "UPDATE", "DELETE"}
        assert all(privileges <= allowed for privileges in granted.values())

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE audit_event SET actor = 'x'",
            "DELETE FROM audit_event",
            "DELETE FROM sealed_secret",
            "UPDATE usage_event SET mode = 'byo'",
            "DELETE FROM usage_event",
            "UPDATE usage_event SET billed = 0",
            "DELETE FROM usage_event_key",
            "DELETE FROM usage_object",
            "DELETE FROM usage_request_key",
        ],
    )
    async def test_cannot_rewrite_what_is_for_good(
        self, tenant: Tenant, database: Database, statement: str
    ) -> None:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await execute(database, tenant.organization, statement)

    @pytest.mark.parametrize(
        "statement", ["CREATE TABLE x ()", "ALTER TABLE audit_event DISABLE ROW LEVEL SECURITY"]
    )
    async def test_cannot_change_the_schema(self, database: Database, statement: str) -> None:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await execute(database, None, statement)


class TestFunctions:
    async def test_run_as_the_tables_owner_with_nothing_to_be_led_astray_by(
        self, superuser: AsyncEngine
    ) -> None:
        found: list[dict[str, Any]] = await fetch(
            superuser,
            "SELECT proname, prosecdef, proconfig, proowner = relowner AS is_owners,"
            " has_function_privilege('public', p.oid, 'EXECUTE') AS is_public,"
            " has_function_privilege('byok_service', p.oid, 'EXECUTE') AS is_services"
            " FROM pg_proc p, pg_class c"
            " WHERE p.pronamespace = 'public'::regnamespace AND c.relname = 'idempotency_key' AND prosecdef",
        )
        ledgers = [row for row in found if "usage" in row["proname"]]
        found = [row for row in found if row not in ledgers]

        assert {row.pop("proname") for row in found} == PURGES | LISTS | RELAY
        for row in found:
            assert row == {
                "prosecdef": True,
                "proconfig": ["search_path=pg_catalog, pg_temp"],
                "is_owners": True,
                "is_public": False,
                "is_services": True,
            }
        assert {row["proname"] for row in ledgers} >= LEDGERS
        for row in ledgers:
            assert "search_path=pg_catalog, public, pg_temp" in row["proconfig"]
            assert (row["is_owners"], row["is_public"], row["is_services"]) == (True, False, True)
