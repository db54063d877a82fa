"""Long work within a transaction goes on although other long work waits in line: others wait for its locks."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import orjson
import pytest

from app.core.event_loop import line_of
from app.core.services import Services
from app.usage.filters import Dimension, RowFilter, UsageFilters
from app.usage.listing import UsageListingService
from app.usage.service import IngestionService
from app.usage_events.event_reader import EventReader
from app.usage_events.events import EventBatch
from app.usage_reports.reports import BucketWidth, ReportQuery
from app.usage_reports.service import ReportService
from tests.support.requests.spend_limits import SpendClients
from tests.support.requests.usage_events import Ledger, event

EVENTS = 2000


def batch() -> EventBatch:
    reader = EventReader()
    reader.read(orjson.dumps(event(feature=f"feature-{number}")) for number in range(EVENTS))
    return reader.batch()


@asynccontextmanager
async def taken_line() -> AsyncIterator[None]:
    """Keep everything waiting that pauses in line."""
    async with line_of(asyncio.get_running_loop()), asyncio.timeout(30):
        yield


@pytest.fixture
async def filled(ledger: Ledger, services: Services) -> str:
    """An organization with events."""
    await services[IngestionService].ingest(ledger.tenant.organization, batch())
    return ledger.tenant.organization


async def test_ingestion_with_spend_limits(ledger: Ledger, services: Services) -> None:
    spend = SpendClients(admin=ledger.tenant, service=ledger.service)
    for number in range(10):
        await spend.create_limit(name=f"Limit {number}", scope={"usage_mode": "any"})

    async with taken_line():
        ingested = await services[IngestionService].ingest(ledger.tenant.organization, batch())

    assert ingested.accepted == EVENTS


async def test_listing(filled: str, services: Services) -> None:
    async with taken_line():
        page = await services[UsageListingService].page(filled, RowFilter(), at_most=EVENTS, after=None)

    assert len(page.rows) == EVENTS


@pytest.mark.parametrize("width", [BucketWidth.ALL, BucketWidth.HOUR])
async def test_report(filled: str, services: Services, width: BucketWidth) -> None:
    now = datetime.now(UTC)
    query = ReportQuery(
        starting_at=now - timedelta(days=300),
        ending_at=now + timedelta(days=1),
        bucket_width=width,
        zone=ZoneInfo("UTC"),
        group_by=(Dimension.FEATURE,),
        filters=UsageFilters(),
        include_empty=True,
    )

    async with taken_line():
        report = await services[ReportService].read(filled, query, at_most=EVENTS)

    assert len(report.rows) == EVENTS
