"""Long work waits in line only outside of a transaction: others wait for its locks and for its connection."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import orjson
import pytest

from app.core.event_loop import line_of
from app.core.services import Services
from app.observability.metrics import REGISTRY
from app.usage.filters import Dimension, RowFilter, UsageFilters
from app.usage.listing import UsageListingService
from app.usage.service import IngestionService
from app.usage_events.event_reader import EventReader
from app.usage_events.events import EventBatch
from app.usage_reports.reports import BucketWidth, ReportQuery
from app.usage_reports.service import ReportService
from tests.support.polling import resolved, until
from tests.support.requests.spend_limits import SpendClients
from tests.support.requests.usage_events import Ledger, event

EVENTS = 2000
Found = TypeVar("Found")


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


async def after_waiting_in_line(reading: Coroutine[Any, Any, Found]) -> Found:
    """The result of a read that waits in line. While it waits, it has no connection."""
    line = line_of(asyncio.get_running_loop())
    async with taken_line():
        task = asyncio.create_task(reading)
        await until(lambda: resolved(line._waiters), bool)  # only this shows that a task waits
        assert REGISTRY.get_sample_value("byok_database_connections_in_use") == 0
        assert not task.done()
    return await task


async def test_listing(filled: str, services: Services) -> None:
    page = await after_waiting_in_line(
        services[UsageListingService].page(filled, RowFilter(), at_most=EVENTS, after=None)
    )

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

    report = await after_waiting_in_line(services[ReportService].read(filled, query, at_most=EVENTS))

    assert len(report.rows) == EVENTS
