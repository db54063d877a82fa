"""Migrations run as the owner that `roles.sql` creates, on every PostgreSQL that is installed here.

A sampled run tests one of them.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa

from app.database import migrations
from app.database.connections import connect
from app.database.engine import Database, DatabaseLogin
from app.database.migrations import MigrationFailed
from tests.support.database.bare_servers import BareServer, bare_server, installations
from tests.support.fault_injection import sampled

# The newest revision before the tables had an owner other than a superuser.
SUPERUSERS_HEAD = "4e8a61c0d95b"


@pytest.fixture(scope="module", params=sampled(installations()))
def bare(request: pytest.FixtureRequest) -> Iterator[BareServer]:
    with bare_server(installations()[request.param]) as server:
        yield server


@pytest.fixture
async def owner(bare: BareServer) -> sa.URL:
    """The owner's login on a database that `roles.sql` has just created."""
    await run(bare.superuser, "DROP DATABASE IF EXISTS byok WITH (FORCE)")
    bare.run_roles_script(bare.superuser, OWNER_PASSWORD="owner", SERVICE_PASSWORD="service")
    return bare.login("byok_owner", "owner")


async def run(url: sa.URL, *statements: str) -> list[tuple[object, ...]]:
    """Run statements, each in its own transaction, and return the rows of the last one."""
    connection = await asyncpg.connect(url.set(drivername="postgresql").render_as_string(hide_password=False))
    try:
        rows = [await connection.fetch(statement) for statement in statements]
        return [tuple(row) for row in rows[-1]]
    finally:
        await connection.close()


class TestMigrate:
    async def test_needs_only_what_roles_sql_gives(self, owner: sa.URL) -> None:
        await migrations.migrate(owner)
        await migrations.migrate(owner, "base")
        await migrations.migrate(owner)

        assert await migrations.current_revision(owner) == migrations.newest_revision()

    async def test_needs_no_superuser_at_all(self, bare: BareServer) -> None:
        """As on managed PostgreSQL, whose administrator may only create roles and databases."""
        await run(
            bare.superuser,
            "DROP DATABASE IF EXISTS byok WITH (FORCE)",
            *(f"DROP ROLE IF EXISTS {name}" for name in ("byok_app", "byok_owner", "byok_service", "admin")),
            "CREATE ROLE admin LOGIN CREATEROLE CREATEDB PASSWORD 'admin'",
        )
        administrator = bare.login("admin", "admin", "postgres")

        for _ in range(2):
            bare.run_roles_script(administrator, OWNER_PASSWORD="owner", SERVICE_PASSWORD="service")
        await migrations.migrate(bare.login("byok_owner", "owner"))

        service = bare.login("byok_app", "service")
        assert await migrations.current_revision(service) == migrations.newest_revision()
        await run(
            bare.superuser,
            "DROP DATABASE byok WITH (FORCE)",
            *(f"DROP ROLE {name}" for name in ("byok_app", "byok_owner", "byok_service", "admin")),
        )

    async def test_works_on_a_server_that_was_upgraded_from_version_14(
        self, bare: BareServer, owner: sa.URL
    ) -> None:
        await run(
            bare.superuser.set(database="byok"),
            "ALTER SCHEMA public OWNER TO postgres",
            "GRANT ALL ON SCHEMA public TO PUBLIC",
        )

        bare.run_roles_script(bare.superuser)
        await migrations.migrate(owner)

        assert await run(owner, "SELECT has_schema_privilege('byok_app', 'public', 'CREATE')") == [(False,)]

    async def test_continues_a_database_that_a_superuser_migrated(
        self, bare: BareServer, owner: sa.URL
    ) -> None:
        superuser = bare.superuser.set(database="byok")
        await migrations.migrate(superuser, SUPERUSERS_HEAD)
        await run(
            superuser,
            "ALTER FUNCTION has_unfolded_usage(name) SET byok.org = ''",
            "INSERT INTO job_queue VALUES ('org_acme', 'kept', gen_random_uuid(), now())",
        )
        with pytest.raises(MigrationFailed, match=r"Run docs/deploy/roles\.sql again as a superuser"):
            await migrations.migrate(owner)

        bare.run_roles_script(bare.superuser)
        await migrations.migrate(owner)

        assert await run(owner, "SELECT kind FROM job_queue") == [("kept",)]
        assert await run(
            owner,
            "SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relnamespace = 'public'::regnamespace"
            " UNION SELECT DISTINCT proowner::regrole::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
        ) == [("byok_owner",)]

    async def test_down_deletes_rewraps_of_signing_secrets_that_row_level_security_hides(
        self, bare: BareServer, owner: sa.URL
    ) -> None:
        await migrations.migrate(owner)
        await run(
            bare.superuser.set(database="byok"),
            "INSERT INTO secret_rewrap VALUES ('org_acme', gen_random_uuid(), gen_random_uuid(), NULL, 'intent', 1, 2)",
        )

        await migrations.migrate(owner, "base")

        assert await migrations.current_revision(owner) is None


class TestConcurrentMigrations:
    async def test_the_second_one_reports_that_it_waits(self, owner: sa.URL) -> None:
        other = await connect(owner)
        lines: asyncio.Queue[str] = asyncio.Queue()
        try:
            await other.execute("SELECT pg_advisory_lock(hashtext('byok.migrations'))")
            second = asyncio.create_task(migrations.migrate(owner, SUPERUSERS_HEAD, lines.put_nowait))

            line = await asyncio.wait_for(lines.get(), 30)
            await other.execute("SELECT pg_advisory_unlock_all()")
            await second
        finally:
            await other.close()

        assert line == "Another migration of this database is running. Waiting until it ends ..."
        assert await migrations.current_revision(owner) == SUPERUSERS_HEAD


class TestLostMachine:
    """A machine that vanishes closes no connection. The server's default is to wait two hours, with all locks held."""

    async def test_the_server_ends_the_session_of_a_command(self, owner: sa.URL) -> None:
        connection = await connect(owner)
        try:
            assert await settings_of(connection) == {
                "idle_in_transaction_session_timeout": "60000",
                "tcp_keepalives_count": "3",
                "tcp_keepalives_idle": "60",
                "tcp_keepalives_interval": "10",
            }
        finally:
            await connection.close()

    async def test_the_server_ends_the_session_that_has_the_lock_of_an_instance(self, owner: sa.URL) -> None:
        database = Database(DatabaseLogin(url=owner, set_role=False), pool_size=1, timeout_seconds=5)
        connection = await database.connect()
        try:
            assert await settings_of(connection) == {
                "idle_in_transaction_session_timeout": "30000",
                "tcp_keepalives_count": "3",
                "tcp_keepalives_idle": "60",
                "tcp_keepalives_interval": "10",
            }
        finally:
            await connection.close()
            await database.close()


async def settings_of(connection: Any) -> dict[str, str]:
    """The settings that end a session without a client."""
    return dict(
        await connection.fetch(
            "SELECT name, setting FROM pg_settings"
            " WHERE name LIKE 'tcp_keepalives_%' OR name = 'idle_in_transaction_session_timeout'"
        )
    )


class TestRowLevelSecurity:
    async def test_binds_the_owner_except_on_the_tables_of_its_functions(self, owner: sa.URL) -> None:
        await migrations.migrate(owner)

        found = await run(
            owner,
            "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relrowsecurity"
            " AND NOT relforcerowsecurity",
        )

        assert {name for (name,) in found} == {
            "idempotency_key",
            "rate_counter",
            "spend_reservation",
            "webhook_delivery",
            "usage_event_key",
            "usage_request_key",
            "sealed_secret",
            "fingerprint_claim",
            "webhook_endpoint",
            "export_link",
        }


class TestFailedMigration:
    async def test_names_revision_statement_and_sqlstate_and_changes_nothing(self, owner: sa.URL) -> None:
        await migrations.migrate(owner, "d7a2e40b6c19")
        await run(owner, "ALTER TABLE webhook_endpoint ADD COLUMN store_version integer")

        with pytest.raises(MigrationFailed) as failed:
            await migrations.migrate(owner)

        text = str(failed.value)
        assert text.startswith(
            "the migration 3fc8a15e7d92 (add_rewraps_of_signing_secrets) failed with SQLSTATE 42701:"
        )
        assert "ALTER TABLE webhook_endpoint ADD COLUMN store_version" in text
        assert "The schema was not changed." in text
        assert "the port" not in text
        assert await migrations.current_revision(owner) == "d7a2e40b6c19"

    async def test_says_that_a_lock_is_held(self, owner: sa.URL) -> None:
        await migrations.migrate(owner, SUPERUSERS_HEAD)
        reader = await asyncpg.connect(
            owner.set(drivername="postgresql").render_as_string(hide_password=False)
        )
        try:
            await reader.execute("BEGIN; LOCK TABLE usage_fold IN ACCESS SHARE MODE")

            with pytest.raises(MigrationFailed, match=r"SQLSTATE 55P03.*Another transaction holds a lock"):
                await migrations.migrate(owner)
        finally:
            await reader.close()

    async def test_of_an_unknown_revision_does_not_quote_it(self, owner: sa.URL) -> None:
        with pytest.raises(MigrationFailed, match="not known to this version") as failed:
            await migrations.migrate(owner, "hunter2")

        assert "hunter2" not in str(failed.value)
