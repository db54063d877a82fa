"""What the service's role can see: one organization at a time.

The policies hold even for a query that forgets its WHERE.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from uuid import uuid4

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.services import Services
from app.database.engine import Database, Query, Row
from app.usage_reports.rollup_worker import RollupWorker
from tests.api.usage import event
from tests.conftest import MakeTenant, MakeToken, Tenant
from tests.fake_anthropic import make_key
from tests.rows import change, fetch
from tests.waiting import until

GUARDED = {
    "audit_event",
    "credential_lease",
    "credential_rotation",
    "credential_validation",
    "credential_version",
    "endpoint_count",
    "fingerprint_claim",
    "idempotency_key",
    "price_override",
    "price_override_list",
    "provider_credential",
    "rate_counter",
    "sealed_secret",
    "spend_alert",
    "spend_counter",
    "spend_limit",
    "spend_reservation",
    "statement",
    "statement_line",
    "subscription",
    "usage_day",
    "usage_day_detail",
    "usage_event",
    "usage_event_key",
    "usage_fold",
    "usage_hour",
    "usage_hour_detail",
    "secret_rewrap",
    "usage_mode_change",
    "webhook_delivery",
    "webhook_endpoint",
}
OF_NO_ORGANIZATION = {"alembic_version", "job_queue", "sealing_keyset"}


async def rows(database: Database, organization_id: str | None, statement: str) -> Sequence[Row]:
    async with database.session(organization_id) as session:
        return await session.rows(Query(sa.text(statement)))


async def execute(database: Database, organization_id: str | None, statement: str) -> int:
    async with database.session(organization_id) as session:
        touched = await session.execute(Query(sa.text(statement)))
        await session.commit()
        return touched


@pytest.fixture
async def two(
    make_tenant: MakeTenant,
    make_token: MakeToken,
    owner: AsyncEngine,
    database: Database,
    services: Services,
) -> tuple[Tenant, Tenant]:
    """Two organizations with a row in every guarded table."""
    tenants = make_tenant(), make_tenant()
    for tenant in tenants:
        response = await tenant.create(headers={"Idempotency-Key": "once"})
        assert response.status_code == 201
        path = f"{tenant.credentials}/{response.json()['id']}"
        assert (await tenant.post(f"{path}/rotations", json={"api_key": make_key()})).status_code == 201
        await tenant.request("PUT", f"{tenant.path}/usage-mode", json={"mode": "byo"})
        await change(
            owner,
            "INSERT INTO credential_lease SELECT organization_id, gen_random_uuid(), credential_id, key_version,"
            " 'accessor', now(), 'relay', now() FROM credential_version WHERE organization_id = :organization",
            organization=tenant.organization,
        )
        reported = await replace(tenant, token=make_token("service")).post(
            f"{tenant.path}/usage-events", json={"events": [event()]}
        )
        assert reported.json()["accepted"] == 1
        await until(partial(fold, services, database, tenant.organization), bool)
        for statement in (*OF_PRICES, *OF_SPENDING, *OF_STATEMENTS):
            await change(owner, statement, organization=tenant.organization)
        await change(
            owner,
            "INSERT INTO secret_rewrap SELECT organization_id, intent_id, credential_id, key_version, 'intent', 1, 1"
            " FROM credential_version WHERE organization_id = :organization AND state = 'active'",
            organization=tenant.organization,
        )
    return tenants


OF_PRICES = (
    """WITH list AS (INSERT INTO price_override_list VALUES (:organization, 1, now(), now(), 'x') RETURNING number)
        INSERT INTO price_override SELECT :organization, number, 'x', 1, 1, 1, 1, 1, 1 FROM list""",
)
# A limit that was told about, what it counts, and who is told.
OF_SPENDING = (
    """INSERT INTO spend_limit VALUES (:organization, gen_random_uuid(), 'Budget', 1, 'total', 'any',
        NULL, NULL, NULL, 'block', '{100}', now(), 1, now(), 'admin', now())""",
    """INSERT INTO spend_counter SELECT organization_id, id, now(), 1, 0, 0, 0
        FROM spend_limit WHERE organization_id = :organization""",
    """INSERT INTO spend_alert SELECT organization_id, id, now(), 100, now(), 1
        FROM spend_limit WHERE organization_id = :organization""",
    """INSERT INTO spend_reservation VALUES (:organization, gen_random_uuid(), 1, 'managed',
        NULL, NULL, NULL, 'open', now(), 'service', now())""",
    """INSERT INTO webhook_endpoint VALUES (:organization, gen_random_uuid(), 'https://hooks.example.com',
        'active', gen_random_uuid(), now(), 'admin')""",
    """INSERT INTO webhook_delivery SELECT organization_id, gen_random_uuid(), id, 'x', '{}', 'pending',
        0, NULL, now(), NULL FROM webhook_endpoint WHERE organization_id = :organization""",
)
OF_STATEMENTS = (
    "INSERT INTO subscription VALUES (:organization, 'x', 1, 1, 1, 1, now(), now(), 'x')",
    "INSERT INTO endpoint_count VALUES (:organization, '2026-10-01', 1, now(), 'x')",
    "INSERT INTO statement VALUES (:organization, '2026-10-01', now(), 'x', 1)",
    f"""INSERT INTO statement_line VALUES (:organization, '2026-10-01', 1, 'subscription',
        NULL, NULL, NULL, {", ".join("1" * 13)})""",
)


async def fold(services: Services, database: Database, organization: str) -> bool:
    """Whether the rows are in the sums."""
    await services[RollupWorker].fold(organization)
    return bool(await rows(database, organization, "SELECT 1 FROM usage_day"))


class TestForgottenWhere:
    @pytest.mark.parametrize("table", sorted(GUARDED))
    async def test_sees_one_organization_alone(
        self, two: tuple[Tenant, Tenant], database: Database, table: str
    ) -> None:
        for tenant in two:
            found = await rows(database, tenant.organization, f"SELECT DISTINCT organization_id FROM {table}")
            assert [row["organization_id"] for row in found] == [tenant.organization]

    @pytest.mark.parametrize("table", sorted(GUARDED))
    @pytest.mark.usefixtures("two")
    async def test_sees_nothing_without_an_organization(self, database: Database, table: str) -> None:
        assert await rows(database, None, f"SELECT 1 FROM {table}") == []

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE provider_credential SET label = 'taken'",
            "UPDATE credential_version SET key_hint = 'taken'",
            "UPDATE sealed_secret SET sealed = NULL, destroyed_at = now()",
            "DELETE FROM fingerprint_claim",
            "DELETE FROM idempotency_key",
            "UPDATE subscription SET plan = 'taken'",
            "UPDATE endpoint_count SET endpoints = 9",
        ],
    )
    async def test_changes_one_organization_alone(
        self, two: tuple[Tenant, Tenant], database: Database, owner: AsyncEngine, statement: str
    ) -> None:
        mine, others = two
        table = next(table for table in GUARDED if table in statement)
        select = f"SELECT * FROM {table} WHERE organization_id = :organization"
        before = await fetch(owner, select, organization=others.organization)

        touched = await execute(database, mine.organization, statement)

        assert touched > 0
        assert await fetch(owner, select, organization=others.organization) == before

    @pytest.mark.usefixtures("two")
    async def test_changes_nothing_without_an_organization(self, database: Database) -> None:
        assert await execute(database, None, "UPDATE provider_credential SET label = 'taken'") == 0

    async def test_does_not_see_what_the_connection_saw_before(
        self, two: tuple[Tenant, Tenant], database: Database
    ) -> None:
        for organization in (two[0].organization, None, two[1].organization, None):
            found = await rows(database, organization, "SELECT organization_id FROM provider_credential")
            assert {row["organization_id"] for row in found} == ({organization} if organization else set())


class TestForeignRow:
    @pytest.mark.parametrize(
        "statement",
        [
            "INSERT INTO rate_counter VALUES ('{}', 'x', now(), 1)",
            "INSERT INTO audit_event SELECT '{}', id, now(), 'x', 'x', NULL, NULL, '{{}}' FROM audit_event LIMIT 1",
            "INSERT INTO sealed_secret SELECT '{}', gen_random_uuid(), 1, NULL, NULL, now(), now()",
            "UPDATE sealed_secret SET organization_id = '{}'",
            "UPDATE idempotency_key SET organization_id = '{}'",
            "UPDATE subscription SET organization_id = '{}'",
            "INSERT INTO statement VALUES ('{}', '2026-09-01', now(), 'x', 1)",
            "INSERT INTO endpoint_count VALUES ('{}', '2026-09-01', 1, now(), 'x')",
        ],
    )
    async def test_cannot_be_written(
        self, two: tuple[Tenant, Tenant], database: Database, statement: str
    ) -> None:
        mine, others = two

        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await execute(database, mine.organization, statement.format(others.organization))

    async def test_cannot_be_written_without_an_organization(self, database: Database) -> None:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await execute(
                database, None, f"INSERT INTO rate_counter VALUES ('org_{uuid4().hex}', 'x', now(), 1)"
            )


class TestEveryTable:
    async def test_is_guarded_or_on_the_list_of_exceptions(self, owner: AsyncEngine) -> None:
        found = await fetch(
            owner,
            "SELECT relname, relrowsecurity FROM pg_class"
            " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition",
        )

        assert {row["relname"] for row in found if row["relrowsecurity"]} == GUARDED
        assert {row["relname"] for row in found if not row["relrowsecurity"]} == OF_NO_ORGANIZATION

    async def test_with_an_organization_and_no_guard_is_the_queue_alone(self, owner: AsyncEngine) -> None:
        found = await fetch(
            owner,
            "SELECT relname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid"
            " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition"
            " AND attname = 'organization_id'",
        )

        assert {row["relname"] for row in found} - GUARDED == {"job_queue"}

    async def test_that_is_a_part_of_another_is_closed_to_the_service(self, owner: AsyncEngine) -> None:
        found = await fetch(
            owner,
            "SELECT has_table_privilege('byok_service', oid, 'SELECT, INSERT, UPDATE, DELETE') AS is_open"
            " FROM pg_class WHERE relispartition AND relkind = 'r'",
        )

        assert found
        assert not any(row["is_open"] for row in found)


class TestQueue:
    async def test_is_open_to_the_sweep_across_organizations(
        self, database: Database, owner: AsyncEngine
    ) -> None:
        organizations = [f"org_{uuid4().hex}" for _ in range(2)]
        for organization in organizations:
            await change(
                owner,
                "INSERT INTO job_queue VALUES (:organization, 'test', gen_random_uuid(), now() + interval '1 day')",
                organization=organization,
            )

        found = await rows(database, None, "SELECT organization_id FROM job_queue WHERE kind = 'test'")

        assert {row["organization_id"] for row in found} >= set(organizations)
        await change(owner, "DELETE FROM job_queue WHERE kind = 'test'")

    async def test_holds_names_and_times_and_nothing_else(self, owner: AsyncEngine) -> None:
        found = await fetch(
            owner, "SELECT column_name FROM information_schema.columns WHERE table_name = 'job_queue'"
        )

        assert {row["column_name"] for row in found} == {"organization_id", "kind", "id", "due_at"}
