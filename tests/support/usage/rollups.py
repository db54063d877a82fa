"""Helpers for rollup tests: random rows, and totals from the report, the ledger and the rollup tables."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.admission import AdmissionQueue
from app.database.engine import Database
from app.database.sessions import Session
from app.database.statements import Query
from app.database.unit_of_work import UnitsOfWork
from app.usage.filters import Dimension, UsageFilters
from app.usage_reports.reports import BucketWidth, ReportQuery
from app.usage_reports.service import ReportService
from tests.support.database.ledger import Event, event
from tests.support.database.rows import fetch

START = datetime.now(UTC) - timedelta(days=3)
QUERY = ReportQuery(
    starting_at=START - timedelta(days=30),
    ending_at=START + timedelta(days=5),
    bucket_width=BucketWidth.DAY,
    zone=ZoneInfo("UTC"),
    group_by=(Dimension.USAGE_MODE, Dimension.MODEL),
    filters=UsageFilters(),
)
_LEDGER_TOTALS = Query(
    sa.text(
        "SELECT count(*) AS requests, coalesce(sum(output_tokens), 0) AS output, coalesce(sum(cost), 0) AS cost,"
        " count(*) FILTER (WHERE cost IS NULL) AS unpriced FROM usage_event"
    )
)

Totals = tuple[int, int, int, int]


def random_event(chance: random.Random) -> Event:
    return event(
        START + timedelta(seconds=chance.randrange(4 * 86400)),
        model=chance.choice(("a", "b")),
        feature=chance.choice((None, "x", "y")),
        output_tokens=chance.randrange(1000),
        cost=chance.choice((None, chance.randrange(10**12))),
    )


def totals_of(rows: Any) -> Totals:
    return (
        sum(row.requests for row in rows),
        sum(row.tokens.output for row in rows),
        sum(row.cost for row in rows),
        sum(row.unpriced_requests for row in rows),
    )


async def reported_totals(units: UnitsOfWork, organization: str) -> Totals:
    return totals_of(
        (
            await ReportService(units, AdmissionQueue(1, queue_timeout_seconds=5, max_waiting=10)).read(
                organization, QUERY, at_most=100
            )
        ).rows
    )


async def ledger_totals(database: Database, organization: str) -> Totals:
    async with database.session(organization, read_only=True) as session:
        return await ledger_totals_in(session)


async def ledger_totals_in(session: Session) -> Totals:
    found = await session.one(_LEDGER_TOTALS)
    return int(found["requests"]), int(found["output"]), int(found["cost"]), int(found["unpriced"])


async def rolled_up_requests(superuser: AsyncEngine, organization: str) -> set[int]:
    """Return the distinct request counts of all rollup tables. There should be only one."""
    tables = [f"usage_{width}{kind}" for width in ("hour", "day") for kind in ("", "_detail", "_wide")]
    return {
        int(
            (
                await fetch(
                    superuser,
                    f"SELECT coalesce(sum(requests), 0) AS n FROM {table} WHERE organization_id = :organization",
                    organization=organization,
                )
            )[0]["n"]
        )
        for table in tables
    }


async def count_queue_items(superuser: AsyncEngine, organization: str) -> int:
    found = await fetch(
        superuser,
        "SELECT 1 FROM job_queue WHERE organization_id = :organization AND kind = 'fold_usage'",
        organization=organization,
    )
    return len(found)
