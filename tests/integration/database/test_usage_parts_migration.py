"""The migration that splits events by model: existing rows, and what its downgrade leaves to the previous release."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.database import migrations
from tests.support.database.migrating import downgrade
from tests.support.database.own_database import DatabaseRoles, copied_database
from tests.support.database.rows import change, fetch

PREVIOUS = "6f2b9d47a1c8"
_INSERT = (
    "INSERT INTO usage_event (organization_id, started_at, event_id, {part} correction, ingested_at, ingest_xid,"
    " mode, model, outcome, usage_source, uncached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens,"
    " cache_read_tokens, output_tokens, web_search_requests, cost, billed, flags)"
    " VALUES ('org', :at, :event_id, {value} :correction, now(), 1, 'managed', :model, 'succeeded', 'reported',"
    " :tokens, 0, 0, 0, 0, 0, :cost, 0, 0)"
)


@pytest.fixture
async def roles(template_database: DatabaseRoles) -> AsyncIterator[DatabaseRoles]:
    async with copied_database(template_database) as roles:
        yield roles


@pytest.fixture
async def superuser_engine(roles: DatabaseRoles) -> AsyncIterator[AsyncEngine]:
    """An engine that sees the rows of all organizations."""
    engine = create_async_engine(roles.superuser)
    yield engine
    await engine.dispose()


@pytest.fixture
async def owner_engine(roles: DatabaseRoles) -> AsyncIterator[AsyncEngine]:
    """An engine that migrates."""
    engine = create_async_engine(roles.owner)
    yield engine
    await engine.dispose()


async def insert(engine: AsyncEngine, *, part: int | None = None, **fields: Any) -> None:
    values = {"at": datetime.now(UTC), "correction": 0, "model": "m", "tokens": 5, "cost": 7} | fields
    statement = _INSERT.format(part="" if part is None else "part,", value="" if part is None else ":part,")
    await change(engine, statement, **values, **({} if part is None else {"part": part}))


class TestUsageParts:
    async def test_existing_rows_are_part_zero(
        self, owner_engine: AsyncEngine, superuser_engine: AsyncEngine
    ) -> None:
        await downgrade(owner_engine.url, PREVIOUS)
        await insert(superuser_engine, event_id="e-1")

        await migrations.migrate(owner_engine.url)

        # An instance of the previous release may still insert rows.
        await insert(superuser_engine, event_id="e-2")
        found = await fetch(superuser_engine, "SELECT event_id, part FROM usage_event ORDER BY event_id")
        assert [dict(row) for row in found] == [
            {"event_id": "e-1", "part": 0},
            {"event_id": "e-2", "part": 0},
        ]

    async def test_the_downgrade_keeps_the_totals_of_each_model(
        self, owner_engine: AsyncEngine, superuser_engine: AsyncEngine
    ) -> None:
        at = datetime.now(UTC)
        await insert(superuser_engine, event_id="e-1", at=at, part=0)
        await insert(superuser_engine, event_id="e-1", at=at, part=0, correction=1, tokens=0)
        await insert(superuser_engine, event_id="e-1", at=at, part=1, model="advisor", tokens=11, cost=None)
        await insert(
            superuser_engine, event_id="e-1", at=at, part=1, model="advisor", tokens=0, cost=3, correction=1
        )
        totals = (
            "SELECT model, sum(uncached_input_tokens) AS tokens, sum(cost) AS cost,"
            " count(*) FILTER (WHERE correction = 0) AS requests FROM usage_event GROUP BY 1 ORDER BY 1"
        )

        await downgrade(owner_engine.url, PREVIOUS)

        found = await fetch(superuser_engine, totals)
        assert [dict(row) for row in found] == [
            {"model": "advisor", "tokens": 11, "cost": 3, "requests": 0},
            {"model": "m", "tokens": 5, "cost": 14, "requests": 1},
        ]
