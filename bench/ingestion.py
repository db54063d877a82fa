"""Measures ingestion: events per second over HTTP and with bare asyncpg, and the memory for one long body.

The bare baseline writes the same rows into the same tables and does nothing more. Both alternate, on tables of the
same size. BYOK_BENCH_EVENTS: events per round. BYOK_BENCH_STREAM: lines of the long body.
"""

import asyncio
import os
import statistics
from contextlib import suppress

import psutil

from bench import ingestion_bare, ingestion_clients
from bench.ingestion_clients import BATCH
from bench.measures import Measure, progress
from tests.support.processes.service import Service, running

EVENTS = int(os.environ.get("BYOK_BENCH_EVENTS", "60000"))
STREAMED = int(os.environ.get("BYOK_BENCH_STREAM", "1000000"))
ROUNDS = 3
MIN_PER_SECOND = 20_000
MIN_RATIO = 0.5
MAX_MEGABYTES = 300

_PATH = "/v1/organizations/org_bench/usage-events"


async def run() -> list[Measure]:
    async with running() as service:
        return [*await _batches(service), *await _long_body(service)]


async def _batches(service: Service) -> list[Measure]:
    database = service.database_url.set(drivername="postgresql").render_as_string(hide_password=False)
    token = await service.token("service")
    process = psutil.Process(service.process.pid)
    batches = EVENTS // BATCH
    rounds: list[tuple[float, float]] = []
    for number in range(ROUNDS + 1):
        before = process.cpu_times()
        sent = await ingestion_clients.send(service.port, _PATH, token, batches=batches)
        after = process.cpu_times()
        assert sent["accepted"] == batches * BATCH
        bare_seconds = await ingestion_bare.write(database, batches=batches)
        pair = (sent["accepted"] / sent["seconds"], batches * BATCH / bare_seconds)
        micros = (after.user - before.user + after.system - before.system) / sent["accepted"] * 1e6
        progress(
            f"round {number} of {ROUNDS}: {pair[0]:,.0f} events/s, bare {pair[1]:,.0f}/s,"
            f" {micros:.1f} µs of the service's CPU per event"
        )
        if number:  # the first round is the warm-up
            rounds.append(pair)
    return [
        Measure(
            name="usage events over HTTP",
            value=statistics.median(ours for ours, _ in rounds),
            unit="/s",
            at_least=MIN_PER_SECOND,
            note=f"{BATCH:,} NDJSON lines per batch, 2 clients",
        ),
        Measure(
            name="usage events, ratio to bare asyncpg",
            value=statistics.median(ours / bare for ours, bare in rounds),
            unit="x",
            at_least=MIN_RATIO,
            note=f"bare {statistics.median(bare for _, bare in rounds):,.0f}/s",
        ),
    ]


async def _long_body(service: Service) -> list[Measure]:
    token = await service.token("service")
    process = psutil.Process(service.process.pid)
    sending = asyncio.create_task(
        ingestion_clients.send(service.port, _PATH, token, batches=STREAMED // BATCH, stream=True)
    )
    most = 0
    while not sending.done():
        most = max(most, process.memory_info().rss)
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await asyncio.shield(sending)
    sent = await sending
    assert sent["accepted"] == STREAMED // BATCH * BATCH
    progress(f"{sent['accepted']:,} lines in one body: {sent['seconds']:.0f} s, at most {most / 1e6:.0f} MB")
    return [
        Measure(
            name="memory while ingesting one long body",
            value=most / 1e6,
            unit="MB",
            at_most=MAX_MEGABYTES,
            note=f"{sent['accepted']:,} lines, {sent['accepted'] / sent['seconds']:,.0f}/s",
        )
    ]
