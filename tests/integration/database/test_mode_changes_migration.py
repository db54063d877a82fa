"""The migration that adds the time of mode changes: it queues the notifications of changes that are scheduled already."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.database import migrations
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.usage_mode.modes import ModeChange, UsageMode
from app.usage_mode.notifications import cancel_notification
from tests.support.database.migrating import downgrade
from tests.support.database.own_database import DatabaseRoles, new_database
from tests.support.database.rows import change, fetch

REVISION = "c1d94e7b6a02"
AHEAD = datetime.now(UTC) + timedelta(days=1, microseconds=7)
QUEUED = "SELECT organization_id, due_at FROM job_queue WHERE kind = 'notify_usage_mode'"


@pytest.fixture
async def roles(database_server: DatabaseRoles) -> AsyncIterator[DatabaseRoles]:
    async with new_database(database_server) as roles:
        yield roles


@pytest.fixture
async def superuser_engine(roles: DatabaseRoles) -> AsyncIterator[AsyncEngine]:
    """An engine that sees the rows of all organizations."""
    engine = create_async_engine(roles.superuser)
    yield engine
    await engine.dispose()


async def test_queues_the_notifications_of_scheduled_changes(
    roles: DatabaseRoles, superuser_engine: AsyncEngine
) -> None:
    await downgrade(roles.owner, f"{REVISION}-1")
    for organization, at, is_scheduled in (
        ("ahead", AHEAD, True),
        ("past", AHEAD - timedelta(days=2), True),
        ("clock_was_set_back", AHEAD, False),
    ):
        await change(
            superuser_engine,
            "INSERT INTO usage_mode_change (organization_id, effective_from, mode, changed_by, is_scheduled)"
            " VALUES (:organization, :at, 'byo', 'ada', :is_scheduled)",
            organization=organization,
            at=at,
            is_scheduled=is_scheduled,
        )

    await migrations.migrate(roles.owner)

    assert await fetch(superuser_engine, QUEUED) == [{"organization_id": "ahead", "due_at": AHEAD}]
    (table,) = await fetch(
        superuser_engine, "SELECT relforcerowsecurity FROM pg_class WHERE relname = 'usage_mode_change'"
    )
    assert table["relforcerowsecurity"]
    # The id is the one that a cancellation removes.
    await cancel(roles)
    assert await fetch(superuser_engine, QUEUED) == []


async def cancel(roles: DatabaseRoles) -> None:
    scheduled = ModeChange(mode=UsageMode.BYO, credential_id=None, effective_from=AHEAD, changed_by="ada")
    database = Database(roles.login)
    async with UnitsOfWork(database).writing("ahead") as uow:
        await cancel_notification(uow, scheduled)
        await uow.commit()
    await database.close()
