"""The tables with row-level security, and statements that run with the service's role."""

from collections.abc import Sequence

import sqlalchemy as sa

from app.database.engine import Database
from app.database.statements import Query, Row

GUARDED = {
    "export_link",
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
    "usage_day_wide",
    "usage_event",
    "usage_event_key",
    "usage_fold",
    "usage_hour",
    "usage_hour_detail",
    "usage_hour_wide",
    "usage_object",
    "usage_request_key",
    "secret_rewrap",
    "usage_mode_change",
    "webhook_delivery",
    "webhook_endpoint",
}


UNGUARDED = {"alembic_version", "job_queue", "sealing_keyset"}


async def rows(database: Database, organization_id: str | None, statement: str) -> Sequence[Row]:
    """Run a query for one organization, or without one."""
    async with database.session(organization_id) as session:
        return await session.rows(Query(sa.text(statement)))


async def execute(database: Database, organization_id: str | None, statement: str) -> int:
    """Run a statement and commit. Returns the number of affected rows."""
    async with database.session(organization_id) as session:
        affected = await session.execute(Query(sa.text(statement)))
        await session.commit()
        return affected
