"""Retention: ended reservations until no event can name them any more, ended deliveries for a week."""

from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.services import Services
from app.jobs.retention import ExpiredRowsWorker
from tests.support.database.rows import change, fetch
from tests.support.tenant import Tenant

_RESERVATIONS = """
    INSERT INTO spend_reservation SELECT :organization, gen_random_uuid(), 1, 'managed', NULL, NULL, NULL, state,
        now() - interval '90 days', 'service', now() - interval '90 days', CAST(now() - ended AS timestamptz)
    FROM (VALUES ('open', NULL), ('settled', interval '35 days'), ('settled', interval '37 days'),
        ('released', interval '37 days')) AS x (state, ended)
"""
_ENDPOINT = """
    INSERT INTO webhook_endpoint VALUES
        (:organization, gen_random_uuid(), 'https://hooks.example.com', 'active', gen_random_uuid(), now(), 'admin')
"""
_DELIVERIES = """
    INSERT INTO webhook_delivery SELECT organization_id, gen_random_uuid(), id, 'x', '{}', x.state, 1, NULL,
        now() - interval '90 days', CAST(now() - ended AS timestamptz)
    FROM webhook_endpoint, (VALUES ('pending', NULL), ('delivered', interval '6 days'),
        ('delivered', interval '8 days'), ('dead', interval '8 days')) AS x (state, ended)
    WHERE organization_id = :organization
"""


class TestPurge:
    async def test_deletes_only_reservations_and_deliveries_that_ended_long_ago(
        self, services: Services, superuser: AsyncEngine, tenant: Tenant
    ) -> None:
        for statement in (_RESERVATIONS, _ENDPOINT, _DELIVERIES):
            await change(superuser, statement, organization=tenant.organization)

        await services[ExpiredRowsWorker].run()

        remaining = {
            table: [
                row["state"]
                for row in await fetch(
                    superuser,
                    f"SELECT state FROM {table} WHERE organization_id = :organization ORDER BY state",
                    organization=tenant.organization,
                )
            ]
            for table in ("spend_reservation", "webhook_delivery")
        }
        assert remaining == {
            "spend_reservation": ["open", "settled"],
            "webhook_delivery": ["delivered", "pending"],
        }
