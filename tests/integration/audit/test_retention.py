"""Audit events are deleted after the retention, and never within 90 days."""

from datetime import timedelta
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.audit.repository import AuditRetentionRepository
from app.audit.retention import AuditRetentionWorker
from app.core.clock import new_id, now
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from tests.support.database.cells import schema_of_run
from tests.support.database.own_database import DatabaseRoles
from tests.support.database.rows import change, fetch

DAYS = (1, 89, 91, 400, 800)


@pytest.fixture
async def organization(superuser: AsyncEngine) -> str:
    """An organization with one event of each age."""
    organization = f"org_{uuid4().hex[:16]}"
    for days in DAYS:
        await change(
            superuser,
            "INSERT INTO audit_event (organization_id, id, occurred_at, action, actor, details)"
            " VALUES (:organization, :id, :occurred_at, 'credential.created', 'ada', '{}')",
            organization=organization,
            id=new_id(),
            occurred_at=now() - timedelta(days=days),
        )
    return organization


async def ages(superuser: AsyncEngine, organization: str) -> list[int]:
    rows = await fetch(
        superuser,
        "SELECT occurred_at FROM audit_event WHERE organization_id = :o ORDER BY occurred_at DESC",
        o=organization,
    )
    return [(now() - row["occurred_at"]).days for row in rows]


class TestRun:
    async def test_deletes_events_older_than_the_retention(
        self, organization: str, superuser: AsyncEngine, database: Database
    ) -> None:
        await AuditRetentionWorker(UnitsOfWork(database), keep_for=timedelta(days=365)).run()

        assert await ages(superuser, organization) == [1, 89, 91]

    async def test_keeps_all_events_without_a_retention(
        self, organization: str, superuser: AsyncEngine, database: Database
    ) -> None:
        await AuditRetentionWorker(UnitsOfWork(database), keep_for=None).run()

        assert await ages(superuser, organization) == list(DAYS)


class TestFunction:
    async def test_owner_can_delete_no_younger_event(
        self, organization: str, database_roles: DatabaseRoles
    ) -> None:
        owner = create_async_engine(database_roles.owner)
        async with owner.connect() as connection:
            deleted = await connection.execute(
                sa.text(f"DELETE FROM {schema_of_run()}.audit_event RETURNING organization_id, occurred_at")
            )
            days = [(now() - row.occurred_at).days for row in deleted if row.organization_id == organization]
            await connection.rollback()
        await owner.dispose()

        assert sorted(days) == [91, 400, 800]

    @pytest.mark.usefixtures("organization")
    async def test_deletes_no_more_events_than_requested(self, database: Database) -> None:
        async with UnitsOfWork(database).unscoped(AuditRetentionRepository) as (audit_log, _):
            assert await audit_log.purge(older_than=now() - timedelta(days=365), at_most=1) == 1
