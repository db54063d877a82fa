"""Measures what it costs to keep usage objects: the same batches with and without them, alternating, in one process.

python -m bench.kept_usage

The costs are the time from the bytes of a batch to its commit, and the size of the rows. BYOK_BENCH_KEPT_BATCHES sets
the number of batches of each kind.
"""

import asyncio
import os
import statistics
import sys
import time
from dataclasses import replace

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from app.core.admission import AdmissionQueue
from app.database.engine import Database, DatabaseLogin
from app.database.unit_of_work import UnitsOfWork
from app.pricing.price_list import load_price_list
from app.pricing.service import PriceService
from app.usage.service import IngestionService
from app.usage_events.event_reader import EventReader
from bench.events import ndjson
from bench.measures import Measure, progress, table
from tests.support.processes.service import running
from tests.support.usage.unpriced_ingestion import NoLimits

BATCH = 1000
BATCHES = int(os.environ.get("BYOK_BENCH_KEPT_BATCHES", "60"))
WARM_UP = 5
MAX_RATIO = 1.15

_SIZES = sa.text(
    "SELECT (SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits"
    " WHERE inhparent = CAST(:parent AS regclass)) AS bytes"
)


async def run() -> list[Measure]:
    async with running() as service:
        database = Database(DatabaseLogin(url=service.database_url, set_role=True), timeout_seconds=60)
        try:
            seconds = await _alternate(database)
        finally:
            await database.close()
        sizes = await _sizes(service.database_url)
    events = BATCHES + WARM_UP
    kept, without = (statistics.median(seconds[is_kept]) for is_kept in (True, False))
    progress(
        f"{kept / BATCH * 1e6:.1f} us per event with its usage object, {without / BATCH * 1e6:.1f} without"
    )
    return [
        Measure(
            name="ingestion with kept usage objects, ratio to without",
            value=kept / without,
            unit="x",
            at_most=MAX_RATIO,
            note=f"{BATCH:,} events per batch, {kept / BATCH * 1e6:.1f} us per event",
        ),
        Measure(
            name="storage of a usage object",
            value=sizes["usage_object"] / (events * BATCH),
            unit="bytes",
            note=f"its row has {sizes['usage_event'] / (2 * events * BATCH):.0f}, with indexes",
        ),
    ]


async def _alternate(database: Database) -> dict[bool, list[float]]:
    """Ingest batches in turn with and without usage objects; return the seconds of each."""
    units = UnitsOfWork(database)
    ingestion = IngestionService(
        units,
        prices=PriceService(units, load_price_list()),
        limits=NoLimits(),
        admission=AdmissionQueue(1, queue_timeout_seconds=60, max_waiting=1),
    )
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for number in range(2 * (BATCHES + WARM_UP)):
        is_kept = number % 2 == 0
        lines = ndjson(BATCH).splitlines()
        started_at = time.perf_counter()
        reader = EventReader()
        reader.read(lines)
        batch = reader.batch()
        if not is_kept:
            batch = replace(batch, usages=[None] * BATCH)
        ingested = await ingestion.ingest("org_bench", batch)
        if number >= 2 * WARM_UP:
            seconds[is_kept].append(time.perf_counter() - started_at)
        assert ingested.accepted == BATCH
    return seconds


async def _sizes(url: sa.URL) -> dict[str, int]:
    engine = create_async_engine(url)
    try:
        async with engine.connect() as connection:
            return {
                parent: int((await connection.execute(_SIZES, {"parent": parent})).scalar_one())
                for parent in ("usage_event", "usage_object")
            }
    finally:
        await engine.dispose()


if __name__ == "__main__":
    print(table(measures := asyncio.run(run())))
    sys.exit(0 if all(measure.is_met for measure in measures) else 1)
