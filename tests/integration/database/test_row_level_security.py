"""The service's role sees only one organization at a time.

The policies apply even to a query without a WHERE clause.
"""

from dataclasses import dataclass, replace
from functools import partial
from uuid import uuid4

import asyncpg
import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.services import Services
from app.database.engine import Database
from app.usage_reports.rollup_worker import RollupWorker
from tests.support.database.row_level_security import GUARDED, UNGUARDED, execute, rows
from tests.support.database.rows import change, fetch
from tests.support.polling import until
from tests.support.provider.fake_anthropic import make_key
from tests.support.requests.usage_events import event
from tests.support.tenant import MakeToken, Tenant


def copied(table: str, select: str) -> str:
    """A statement that inserts the rows of a SELECT, in a form that Citus accepts."""
    return (
        f"WITH found AS MATERIALIZED ({select}), copied AS (INSERT INTO {table} SELECT * FROM found RETURNING 1)"
        " SELECT count(*) FROM copied"
    )


@dataclass(frozen=True, kw_only=True)
class Organizations:
    """Makes pairs of organizations."""

    http: httpx.AsyncClient
    make_token: MakeToken
    superuser: AsyncEngine
    database: Database
    services: Services

    async def two(self) -> tuple[Tenant, Tenant]:
        """Two organizations with a row in every guarded table."""
        return await self._one(), await self._one()

    async def _one(self) -> Tenant:
        organization = f"org_{uuid4().hex[:16]}"
        tenant = Tenant(
            http=self.http, organization=organization, token=self.make_token(organization=organization)
        )
        response = await tenant.create(headers={"Idempotency-Key": "once"})
        assert response.status_code == 201
        path = f"{tenant.credentials}/{response.json()['id']}"
        assert (await tenant.post(f"{path}/rotations", json={"api_key": make_key()})).status_code == 201
        await tenant.request("PUT", f"{tenant.path}/usage-mode", json={"mode": "byo"})
        await change(
            self.superuser,
            copied(
                "credential_lease",
                "SELECT organization_id, gen_random_uuid(), credential_id, key_version, 'accessor', now(), 'relay',"
                " now() FROM credential_version WHERE organization_id = :organization",
            ),
            organization=tenant.organization,
        )
        reported = await replace(tenant, token=self.make_token("service")).post(
            f"{tenant.path}/usage-events", json={"events": [event(provider_request_id="req_1")]}
        )
        assert reported.json()["accepted"] == 1
        await until(partial(roll_up, self.services, self.database, tenant.organization), bool)
        for statement in (*PRICE_STATEMENTS, *SPENDING_STATEMENTS, *BILLING_STATEMENTS):
            await change(self.superuser, statement, organization=tenant.organization)
        await change(
            self.superuser,
            copied(
                "secret_rewrap",
                "SELECT organization_id, intent_id, credential_id, key_version, 'intent', 1, 1"
                " FROM credential_version WHERE organization_id = :organization AND state = 'active'",
            ),
            organization=tenant.organization,
        )
        return tenant


@pytest.fixture(scope="module")
def organizations(
    http: httpx.AsyncClient,
    make_token: MakeToken,
    superuser: AsyncEngine,
    database: Database,
    services: Services,
) -> Organizations:
    return Organizations(
        http=http, make_token=make_token, superuser=superuser, database=database, services=services
    )


@pytest.fixture(scope="module")
async def unchanged(organizations: Organizations) -> tuple[Tenant, Tenant]:
    """Two organizations whose rows no test changes."""
    return await organizations.two()


@pytest.fixture
async def two(organizations: Organizations) -> tuple[Tenant, Tenant]:
    return await organizations.two()


CIPHERTEXT_COLUMN = "sealed"
PRICE_STATEMENTS = (
    "INSERT INTO price_override_list VALUES (:organization, 1, now(), now(), 'x')",
    "INSERT INTO price_override VALUES (:organization, 1, 'x', 1, 1, 1, 1, 1, 1)",
)
# A limit with a counter and an alert, a reservation, a webhook endpoint and a delivery.
SPENDING_STATEMENTS = (
    """INSERT INTO spend_limit VALUES (:organization, gen_random_uuid(), 'Budget', 1, 'total', 'any',
        NULL, NULL, NULL, 'block', '{100}', now(), 1, now(), 'admin', now())""",
    copied(
        "spend_counter",
        "SELECT organization_id, id, now(), 1, 0, 0, 0 FROM spend_limit WHERE organization_id = :organization",
    ),
    copied(
        "spend_alert",
        "SELECT organization_id, id, now(), 100, now(), 1 FROM spend_limit WHERE organization_id = :organization",
    ),
    """INSERT INTO spend_reservation VALUES (:organization, gen_random_uuid(), 1, 'managed',
        NULL, NULL, NULL, 'open', now(), 'service', now())""",
    """INSERT INTO webhook_endpoint VALUES (:organization, gen_random_uuid(), 'https://hooks.example.com',
        'active', gen_random_uuid(), now(), 'admin')""",
    copied(
        "webhook_delivery",
        "SELECT organization_id, gen_random_uuid(), id, 'x', '{}', 'pending', 0, NULL, now(), NULL::timestamptz"
        " FROM webhook_endpoint WHERE organization_id = :organization",
    ),
)
BILLING_STATEMENTS = (
    "INSERT INTO export_link VALUES (:organization, 'x', '/', '', 'usage:read', 'admin', now())",
    "INSERT INTO subscription VALUES (:organization, 'x', 1, 1, 1, 1, now(), now(), 'x')",
    "INSERT INTO endpoint_count VALUES (:organization, '2026-10-01', 1, now(), 'x')",
    "INSERT INTO statement VALUES (:organization, '2026-10-01', now(), 'x', 1)",
    f"""INSERT INTO statement_line VALUES (:organization, '2026-10-01', 1, 'subscription',
        NULL, NULL, NULL, {", ".join("1" * 13)})""",
)


async def roll_up(services: Services, database: Database, organization: str) -> bool:
    """Roll up the ledger. Returns whether the rows are in the rollups."""
    await services[RollupWorker].roll_up(organization)
    return bool(await rows(database, organization, "SELECT 1 FROM usage_day"))


class TestMissingWhere:
    @pytest.mark.parametrize("table", sorted(GUARDED))
    async def test_sees_only_one_organization(
        self, unchanged: tuple[Tenant, Tenant], database: Database, table: str
    ) -> None:
        for tenant in unchanged:
            found = await rows(database, tenant.organization, f"SELECT DISTINCT organization_id FROM {table}")
            assert [row["organization_id"] for row in found] == [tenant.organization]

    @pytest.mark.parametrize("table", sorted(GUARDED))
    @pytest.mark.usefixtures("unchanged")
    async def test_sees_nothing_without_an_organization(self, database: Database, table: str) -> None:
        assert await rows(database, None, f"SELECT 1 FROM {table}") == []

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE provider_credential SET label = 'taken'",
            "UPDATE credential_version SET key_hint = 'taken'",
            f"UPDATE sealed_secret SET {CIPHERTEXT_COLUMN} = NULL, destroyed_at = now()",
            "DELETE FROM fingerprint_claim",
            "DELETE FROM idempotency_key",
            "UPDATE subscription SET plan = 'taken'",
            "UPDATE endpoint_count SET endpoints = 9",
        ],
    )
    async def test_changes_only_one_organization(
        self, two: tuple[Tenant, Tenant], database: Database, superuser: AsyncEngine, statement: str
    ) -> None:
        mine, others = two
        table = next(table for table in GUARDED if table in statement)
        select = f"SELECT * FROM {table} WHERE organization_id = :organization"
        before = await fetch(superuser, select, organization=others.organization)

        affected = await execute(database, mine.organization, statement)

        assert affected > 0
        assert await fetch(superuser, select, organization=others.organization) == before

    @pytest.mark.usefixtures("two")
    async def test_changes_nothing_without_an_organization(self, database: Database) -> None:
        assert await execute(database, None, "UPDATE provider_credential SET label = 'taken'") == 0

    async def test_does_not_see_the_organization_of_an_earlier_transaction(
        self, two: tuple[Tenant, Tenant], database: Database
    ) -> None:
        for organization in (two[0].organization, None, two[1].organization, None):
            found = await rows(database, organization, "SELECT organization_id FROM provider_credential")
            assert {row["organization_id"] for row in found} == ({organization} if organization else set())


class TestRowOfAnotherOrganization:
    @pytest.mark.parametrize(
        "statement",
        [
            "INSERT INTO rate_counter VALUES ('{}', 'x', now(), 1)",
            copied(
                "audit_event",
                "SELECT '{}', id, now(), 'x', 'x', NULL::uuid, NULL, '{{}}'::jsonb FROM audit_event LIMIT 1",
            ),
            "INSERT INTO sealed_secret VALUES ('{}', gen_random_uuid(), 1, NULL, NULL, now(), now())",
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
    async def test_has_row_level_security_or_is_an_exception(self, superuser: AsyncEngine) -> None:
        found = await fetch(
            superuser,
            "SELECT relname, relrowsecurity FROM pg_class"
            " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition",
        )

        assert {row["relname"] for row in found if row["relrowsecurity"]} == GUARDED
        assert {row["relname"] for row in found if not row["relrowsecurity"]} == UNGUARDED

    async def test_of_organizations_without_row_level_security_is_only_the_queue(
        self, superuser: AsyncEngine
    ) -> None:
        found = await fetch(
            superuser,
            "SELECT relname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid"
            " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition"
            " AND attname = 'organization_id'",
        )

        assert {row["relname"] for row in found} - GUARDED == {"job_queue"}

    async def test_that_is_a_partition_is_not_accessible_to_the_service(self, superuser: AsyncEngine) -> None:
        found = await fetch(
            superuser,
            "SELECT has_table_privilege('byok_service', oid, 'SELECT, INSERT, UPDATE, DELETE') AS is_open"
            " FROM pg_class WHERE relispartition AND relkind = 'r'",
        )

        assert found
        assert not any(row["is_open"] for row in found)


class TestQueue:
    async def test_shows_items_of_all_organizations_to_the_reconciler(
        self, database: Database, superuser: AsyncEngine
    ) -> None:
        organizations = [f"org_{uuid4().hex}" for _ in range(2)]
        for organization in organizations:
            await change(
                superuser,
                "INSERT INTO job_queue VALUES (:organization, 'test', gen_random_uuid(), now() + interval '1 day')",
                organization=organization,
            )

        found = await rows(database, None, "SELECT organization_id FROM job_queue WHERE kind = 'test'")

        assert {row["organization_id"] for row in found} >= set(organizations)
        await change(superuser, "DELETE FROM job_queue WHERE kind = 'test'")

    async def test_contains_only_ids_and_times(self, superuser: AsyncEngine) -> None:
        found = await fetch(
            superuser, "SELECT column_name FROM information_schema.columns WHERE table_name = 'job_queue'"
        )

        assert {row["column_name"] for row in found} == {"organization_id", "kind", "id", "due_at"}
