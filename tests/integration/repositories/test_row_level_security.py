"""What the service's role can see: one organization at a time.

The policies hold even for a query that forgets its WHERE.
"""

from collections.abc import Sequence
from uuid import uuid4

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.database import Database, Row, Statement
from tests.conftest import MakeTenant, Tenant
from tests.fake_anthropic import make_key
from tests.rows import change, fetch

GUARDED = {
    "audit_event",
    "credential_lease",
    "credential_rotation",
    "credential_validation",
    "credential_version",
    "fingerprint_claim",
    "idempotency_key",
    "provider_credential",
    "rate_counter",
    "sealed_secret",
    "secret_rewrap",
    "usage_mode_change",
}
OF_NO_ORGANIZATION = {"alembic_version", "job_queue", "sealing_keyset"}


async def rows(database: Database, organization_id: str | None, statement: str) -> Sequence[Row]:
    async with database.session(organization_id) as session:
        return await session.rows(Statement(sa.text(statement)))


async def execute(database: Database, organization_id: str | None, statement: str) -> int:
    async with database.session(organization_id) as session:
        touched = await session.execute(Statement(sa.text(statement)))
        await session.commit()
        return touched


@pytest.fixture
async def two(make_tenant: MakeTenant, owner: AsyncEngine) -> tuple[Tenant, Tenant]:
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
        await change(
            owner,
            "INSERT INTO secret_rewrap SELECT organization_id, intent_id, credential_id, key_version, 'intent', 1, 1"
            " FROM credential_version WHERE organization_id = :organization AND state = 'active'",
            organization=tenant.organization,
        )
    return tenants


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
            " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')",
        )

        assert {row["relname"] for row in found if row["relrowsecurity"]} == GUARDED
        assert {row["relname"] for row in found if not row["relrowsecurity"]} == OF_NO_ORGANIZATION

    async def test_with_an_organization_and_no_guard_is_the_queue_alone(self, owner: AsyncEngine) -> None:
        found = await fetch(
            owner,
            "SELECT table_name FROM information_schema.columns"
            " WHERE table_schema = 'public' AND column_name = 'organization_id'",
        )

        assert {row["table_name"] for row in found} - GUARDED == {"job_queue"}


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
