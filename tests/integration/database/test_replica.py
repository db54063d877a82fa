"""Bulk reads from a streaming replica: what they show, up to when they are complete, and what happens without it."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from app.composition.database_access import DatabaseAccess, database_access, prepare_database
from app.core.clock import now
from app.core.errors import DatabaseUnavailable
from app.database.engine import DatabaseLogin
from app.database.replicas.units import ReplicaUnits, replica_units
from app.database.statements import Query
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.doctor import FAILED_DATABASE, READ_ONLY, exit_status, run_checks
from app.settings.environment import SettingsRefused, load_settings
from app.usage.filters import RowFilter
from app.usage.listing_repository import UsageListingRepository
from tests.support.database.accounts import free_port
from tests.support.database.ledger import event, ingest
from tests.support.database.own_database import DatabaseRoles
from tests.support.database.replicated import (
    ReplicatedDatabase,
    Replication,
    replicated_database,
    replication,
)
from tests.support.polling import until

_ALL = RowFilter()
_EVER = (datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC))


@pytest.fixture(scope="module")
def servers() -> Iterator[Replication]:
    with replication() as servers:
        yield servers


@pytest.fixture(scope="module")
async def databases(servers: Replication) -> AsyncIterator[ReplicatedDatabase]:
    async with replicated_database(servers) as databases:
        yield databases


@pytest.fixture
def units(databases: ReplicatedDatabase) -> ReplicaUnits:
    return ReplicaUnits(databases.primary, databases.replica, retry_seconds=0)


@pytest.fixture
def organization() -> str:
    return f"org_{uuid4().hex[:16]}"


def url_text(url: sa.URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


async def count(uow: UnitOfWork) -> int:
    found = await uow[UsageListingRepository].page(_ALL, at_most=100, after=None, time_ranges=[_EVER])
    return len(found.rows)


async def read(units: UnitsOfWork, organization: str) -> tuple[int, datetime | None]:
    """How many rows there are, and up to when that is complete."""
    async with units.reading_in_bulk(organization) as uow:
        return await count(uow), uow.complete_until


async def time_of(databases: ReplicatedDatabase) -> datetime:
    (row,) = await databases.servers.run(databases.servers.primary, "SELECT clock_timestamp()")
    found: datetime = row[0]
    return found


class TestCompleteUntil:
    async def test_never_claims_what_is_not_replayed_yet(
        self, databases: ReplicatedDatabase, units: ReplicaUnits, organization: str
    ) -> None:
        await ingest(databases.primary, organization, event(now()))
        await units.sample_primary()
        await until(lambda: read(units, organization), lambda found: found[0] == 1 and found[1] is not None)
        before = await time_of(databases)
        await databases.servers.replay(is_paused=True)
        try:
            await ingest(databases.primary, organization, event(now()))
            accepted_at = await time_of(databases)
            await units.sample_primary()
            rows, complete_until = await read(units, organization)
        finally:
            await databases.servers.replay(is_paused=False)

        assert rows == 1
        assert complete_until is not None
        assert complete_until < accepted_at
        caught_up = await until(lambda: read(units, organization), lambda found: found[0] == 2)
        assert caught_up[1] is not None
        assert caught_up[1] > before

    async def test_reaches_the_time_of_the_primary_once_replayed(
        self, databases: ReplicatedDatabase, units: ReplicaUnits, organization: str
    ) -> None:
        await ingest(databases.primary, organization, event(now()))
        accepted_at = await time_of(databases)
        await units.sample_primary()

        rows, _ = await until(
            lambda: read(units, organization), lambda found: found[1] is not None and found[1] >= accepted_at
        )

        assert rows == 1

    async def test_goes_on_while_the_primary_writes_nothing(
        self, databases: ReplicatedDatabase, units: ReplicaUnits, organization: str
    ) -> None:
        await units.sample_primary()
        started_at = await time_of(databases)

        await units.sample_primary()

        await until(
            lambda: read(units, organization), lambda found: found[1] is not None and found[1] >= started_at
        )

    async def test_samples_the_primary_in_the_background(
        self, databases: ReplicatedDatabase, organization: str
    ) -> None:
        started_at = await time_of(databases)

        async with replica_units(databases.primary, databases.replica) as units:
            await until(
                lambda: read(units, organization),
                lambda found: found[1] is not None and found[1] > started_at,
            )

    async def test_is_of_the_primary_until_the_replica_has_the_migrations(
        self, databases: ReplicatedDatabase, units: ReplicaUnits, organization: str
    ) -> None:
        await databases.servers.replay(is_paused=True)
        try:
            await databases.servers.run(databases.servers.primary, "CREATE DATABASE not_there_yet")
            await units.sample_primary()
            _, behind = await read(units, organization)
        finally:
            await databases.servers.replay(is_paused=False)

        assert behind is None
        await until(lambda: read(units, organization), lambda found: found[1] is not None)


class TestRoles:
    async def test_shows_only_the_rows_of_one_organization(
        self, databases: ReplicatedDatabase, units: ReplicaUnits, organization: str
    ) -> None:
        await ingest(databases.primary, organization, event(now()))
        await units.sample_primary()
        await until(lambda: read(units, organization), lambda found: found[0] == 1)

        assert (await read(units, "org_other"))[0] == 0
        async with databases.replica.session(None, read_only=True) as session:
            assert await session.rows(Query(sa.text("SELECT FROM usage_event"))) == []

    async def test_accepts_no_write(self, databases: ReplicatedDatabase, organization: str) -> None:
        with pytest.raises(DatabaseUnavailable):
            await ingest(databases.replica, organization, event(now()))


class TestStart:
    """What a start in production checks. `byok doctor` uses the same checks."""

    def prepare(self, databases: ReplicatedDatabase, reports: sa.URL) -> Coroutine[Any, Any, None]:
        database = {"url": url_text(databases.roles.service), "reports_url": url_text(reports)}
        settings = load_settings(
            _env_file=None,
            environment="production",
            database=database,
            auth={"issuer": "https://id.example.com", "jwks_url": "https://id.example.com/jwks"},
            secret_store={"allow_embedded": True},
        )
        access = DatabaseAccess(
            owner=databases.roles.owner,
            login=databases.roles.login,
            reports=DatabaseLogin(url=reports, set_role=False),
        )
        return prepare_database(settings, access)

    async def test_accepts_the_login_of_the_service(self, databases: ReplicatedDatabase) -> None:
        await self.prepare(databases, databases.servers.on_replica(databases.roles.service))

    async def test_refuses_a_login_that_can_bypass_row_level_security(
        self, databases: ReplicatedDatabase
    ) -> None:
        with pytest.raises(SettingsRefused, match=r"BYOK_DATABASE__REPORTS_URL: .* is superuser"):
            await self.prepare(databases, databases.servers.on_replica(databases.roles.superuser))

    async def test_refuses_a_server_with_other_transactions(
        self, databases: ReplicatedDatabase, database_roles: DatabaseRoles
    ) -> None:
        with pytest.raises(
            SettingsRefused, match="BYOK_DATABASE__REPORTS_URL: the server is not a physical replica"
        ):
            await self.prepare(databases, database_roles.service)

    async def test_doctor_finds_that_the_service_would_write_to_a_replica(
        self, databases: ReplicatedDatabase
    ) -> None:
        url = databases.servers.on_replica(databases.roles.service)
        settings = load_settings(
            _env_file=None,
            database={"url": url_text(url)},
            provider={"default_base_url": "http://127.0.0.1:9"},
        )
        access = DatabaseAccess(owner=url, login=DatabaseLogin(url=url, set_role=False))

        findings = await run_checks(settings, access, unknown=(), show=lambda _line: None)

        failed = [str(finding) for finding in findings if finding.level == "fail"]
        assert failed == [f"fail  writes: {READ_ONLY}"]
        assert exit_status(findings) == FAILED_DATABASE

    async def test_goes_on_without_the_replica(self, databases: ReplicatedDatabase) -> None:
        await self.prepare(databases, databases.roles.service.set(port=free_port()))


@pytest.fixture(scope="module")
def bare_pair() -> Iterator[Replication]:
    """Without `roles.sql`: the superuser is the owner and the service."""
    with replication() as servers:
        yield servers


@pytest.fixture
async def empty_servers(bare_pair: Replication) -> AsyncIterator[Replication]:
    await bare_pair.run(bare_pair.primary, "CREATE DATABASE byok")
    yield bare_pair
    await bare_pair.replay(is_paused=False)
    await bare_pair.run(bare_pair.primary, "DROP DATABASE byok WITH (FORCE)")
    await bare_pair.run(bare_pair.primary, "DROP ROLE byok_service")


class TestFirstStartInDevelopment:
    """A start in development migrates, and the migrations create the role that the check of the replica looks for."""

    @staticmethod
    def start(servers: Replication) -> Coroutine[Any, Any, None]:
        url = servers.primary.superuser.set(database="byok")
        database = {"url": url_text(url), "reports_url": url_text(servers.on_replica(url))}
        settings = load_settings(_env_file=None, database=database)
        with database_access(settings) as access:
            return prepare_database(settings, access)

    async def test_uses_the_replica(self, empty_servers: Replication) -> None:
        with capture_logs() as logged:
            await self.start(empty_servers)

        assert logged == []

    async def test_goes_on_if_the_replica_has_not_replayed_the_role(
        self, empty_servers: Replication, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("app.composition.database_access._REPLAY_SECONDS", 0)
        # The replica has the database, and then no more.
        url = empty_servers.replica.superuser.set(database="byok")
        await until(lambda: can_connect(url), bool)
        await empty_servers.replay(is_paused=True)

        with capture_logs() as logged:
            await self.start(empty_servers)

        assert [entry["event"] for entry in logged] == ["reports_database_behind"]


async def can_connect(url: sa.URL) -> bool:
    with suppress(asyncpg.PostgresError):
        await (await asyncpg.connect(url_text(url))).close()
        return True
    return False


class TestFallback:
    async def test_reads_from_the_primary_while_nothing_is_known_of_the_delay(
        self, databases: ReplicatedDatabase, organization: str
    ) -> None:
        """A server that is not a replica, and has not reached any known position of the primary."""
        await ingest(databases.primary, organization, event(now()))
        units = ReplicaUnits(databases.primary, databases.primary)

        assert await read(units, organization) == (1, None)

    async def test_a_conflict_with_replication_is_an_outage(
        self, databases: ReplicatedDatabase, organization: str
    ) -> None:
        """VACUUM removes rows that a statement on the replica may still need, so PostgreSQL ends that statement."""
        servers, name = databases.servers, databases.roles.name
        await servers.run(servers.replica, "ALTER SYSTEM SET max_standby_streaming_delay = 0")
        await servers.run(servers.replica, "SELECT pg_reload_conf()")
        await ingest(databases.primary, organization, event(now()))

        async def sleep_with_snapshot() -> None:
            async with databases.replica.session(organization, read_only=True) as session:
                await session.rows(Query(sa.text("SELECT pg_sleep(4) FROM pg_class LIMIT 1")))

        async def is_sleeping() -> int:
            assert not sleeping.done(), sleeping.exception()
            statement = (
                "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(4)%' AND pid <> pg_backend_pid()"
            )
            return len(await servers.run(servers.replica, statement))

        sleeping = asyncio.create_task(sleep_with_snapshot())
        await until(is_sleeping, lambda found: found == 1)
        await servers.run(
            servers.primary, f"DELETE FROM usage_event WHERE organization_id = '{organization}'", name
        )
        await servers.run(servers.primary, "VACUUM usage_event", name)

        with pytest.raises(DatabaseUnavailable):
            await sleeping

    async def test_reads_from_the_primary_while_the_replica_is_down(
        self, databases: ReplicatedDatabase, units: ReplicaUnits, organization: str
    ) -> None:
        await ingest(databases.primary, organization, event(now()))
        await units.sample_primary()
        await read(units, organization)

        databases.servers.replica.kill()
        try:
            assert await read(units, organization) == (1, None)
        finally:
            databases.servers.replica.start()

        await until(lambda: read(units, organization), lambda found: found[1] is not None, timeout_seconds=30)
