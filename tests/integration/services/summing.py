"""What the tests of the fold share: rows, what is reported of them, and what is true."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.engine import Database, Query, Session
from app.database.unit_of_work import UnitsOfWork
from app.usage_reports.reports import BucketWidth, Dimension, ReportQuery
from app.usage_reports.service import ReportService
from tests.ledger import Event, event
from tests.rows import fetch

START = datetime.now(UTC) - timedelta(days=3)
QUERY = ReportQuery(
    starting_at=START - timedelta(days=30),
    ending_at=START + timedelta(days=5),
    bucket_width=BucketWidth.DAY,
    zone=ZoneInfo("UTC"),
    group_by=(Dimension.USAGE_MODE, Dimension.MODEL),
    filters={},
)
REPEATABLE_READ = Query(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
_TRUTH = Query(
    sa.text(
        "SELECT count(*) AS requests, coalesce(sum(output_tokens), 0) AS output, coalesce(sum(cost), 0) AS cost,"
        " count(*) FILTER (WHERE cost IS NULL) AS unpriced FROM usage_event"
    )
)

Sums = tuple[int, int, int, int]


def random_event(chance: random.Random) -> Event:
    return event(
        START + timedelta(seconds=chance.randrange(4 * 86400)),
        model=chance.choice(("a", "b")),
        feature=chance.choice((None, "x", "y")),
        output_tokens=chance.randrange(1000),
        cost=chance.choice((None, chance.randrange(10**12))),
    )


def sums_of(rows: Any) -> Sums:
    return (
        sum(row.requests for row in rows),
        sum(row.tokens.output for row in rows),
        sum(row.cost for row in rows),
        sum(row.unpriced_requests for row in rows),
    )


async def reported(units: UnitsOfWork, organization: str) -> Sums:
    return sums_of((await ReportService(units).read(organization, QUERY, at_most=100)).rows)


async def truth(database: Database, organization: str) -> Sums:
    async with database.session(organization, read_only=True) as session:
        return await truth_in(session)


async def truth_in(session: Session) -> Sums:
    found = await session.first(_TRUTH)
    assert found is not None
    return int(found["requests"]), int(found["output"]), int(found["cost"]), int(found["unpriced"])


async def in_sums(owner: AsyncEngine, organization: str) -> set[int]:
    """How many requests each of the four tables holds; all should hold the same."""
    tables = ("usage_hour", "usage_day", "usage_hour_detail", "usage_day_detail")
    return {
        int(
            (
                await fetch(
                    owner,
                    f"SELECT coalesce(sum(requests), 0) AS n FROM {table} WHERE organization_id = :organization",
                    organization=organization,
                )
            )[0]["n"]
        )
        for table in tables
    }


async def items(owner: AsyncEngine, organization: str) -> int:
    found = await fetch(
        owner,
        "SELECT 1 FROM job_queue WHERE organization_id = :organization AND kind = 'fold_usage'",
        organization=organization,
    )
    return len(found)
