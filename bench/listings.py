"""Measures listings by a filter that matches nothing, and by one that matches a single old row, of one organization.

All rows belong to the organization and are spread over 30 days. For comparison, the same listing reads the same rows as
release 0.1 did: the newest first, until a page is full. BYOK_BENCH_LISTING_ROWS sets the number of rows.
"""

import os
import statistics
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from bench.measures import Measure, progress
from tests.support.processes.service import Service, running

ORGANIZATION = "org_all"
ROWS = int(os.environ.get("BYOK_BENCH_LISTING_ROWS", "1000000"))
DAYS = 30
# Like many batches: all rows of a transaction are rolled up together.
CHUNK = 25_000
REQUESTS = 15
MAX_MILLISECONDS = 50
# The row with this number has a unique feature. It is on the second day.
SINGLE = ROWS // 20

_LOAD = """
INSERT INTO usage_event (organization_id, started_at, event_id, correction, ingested_at, ingest_xid, mode, model,
    endpoint_id, feature, session_id, prompt_id, outcome, usage_source, service_tier, speed, inference_geo,
    uncached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens, cache_read_tokens, output_tokens,
    web_search_requests, cost, billed, price_version, flags, provider_request_id)
SELECT 'org_all', $1::timestamptz + (n::float8 / $2) * $3::interval, 'event_' || n, 0, now(),
    pg_current_xact_id()::text::bigint, 'managed',
    (ARRAY['claude-haiku-4-5', 'claude-sonnet-4-5', 'claude-opus-4-1'])[1 + n / 100 % 3], 'endpoint_' || n % 6,
    CASE WHEN n = $6 THEN 'single' ELSE 'feature_' || n % 8 END, 'session_' || n / 8, 'prompt_' || n / 2, 'succeeded',
    'reported', 'standard', 'standard', 'global', n % 4000, 0, 0, n % 9000, n % 1000, 0, 1000000, 1000000, NULL,
    CASE WHEN n % 10 = 0 THEN 2 ELSE 0 END, 'req_' || n
FROM generate_series($4::bigint, $5::bigint) n
"""
_QUEUE = """
INSERT INTO job_queue VALUES ('org_all', 'fold_usage', '00000000-0000-0000-0000-000000000000'::uuid, now())
ON CONFLICT DO NOTHING
"""
# As release 0.1 listed rows: PostgreSQL reads them in order and drops those that do not match.
_IN_ORDER = """
SELECT * FROM usage_event WHERE organization_id = $1 AND feature = $2
ORDER BY started_at DESC, event_id DESC, part DESC, correction DESC LIMIT 21
"""
# Each matches nothing. Together they name every dimension, and pairs of values that exist but never together: odd rows have
# odd endpoints and features.
NOTHING: tuple[dict[str, str], ...] = (
    {"usage_mode": "byo"},
    {"model[]": "claude-unknown"},
    {"endpoint_id[]": "unknown"},
    {"feature[]": "unknown"},
    {"session_id[]": "unknown"},
    {"prompt_id[]": "unknown"},
    {"credential_id[]": "00000000-0000-0000-0000-000000000001"},
    {"key_version[]": "7"},
    {"outcome[]": "aborted"},
    {"usage_source[]": "estimated"},
    {"service_tier[]": "batch"},
    {"speed[]": "fast"},
    {"inference_geo[]": "us"},
    {"flag[]": "refusal"},
    *({"without[]": name} for name in ("feature", "session_id", "prompt_id", "service_tier")),
    {"event_id": "unknown"},
    {"provider_request_id": "req_unknown"},
    {"endpoint_id[]": "endpoint_1", "feature[]": "feature_2"},
    {"session_id[]": "session_1", "outcome[]": "failed"},
)


async def run() -> list[Measure]:
    until = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    since = until - timedelta(days=DAYS)
    async with running(JOBS__INTERVAL="1s") as service:
        connection = await _connect(service)
        await _fill(connection, since, until)
        slowest, name = 0.0, ""
        for filters in NOTHING:
            taken = await _list(service, filters, expected=0)
            if taken > slowest:
                slowest, name = taken, ", ".join(filters)
        single = await _list(service, {"feature[]": "single"}, expected=1)
        every = await _list(service, {"usage_mode": "managed"}, expected=20)
        in_order = await _in_order(connection)
        await connection.close()
    return [
        Measure(
            name=f"listing that matches nothing, {ROWS:,} rows, slowest of {len(NOTHING)} filters, p50",
            value=slowest,
            unit="ms",
            at_most=MAX_MILLISECONDS,
            note=f"{name}; through HTTP; {in_order / slowest:.0f} times as fast as reading in order",
        ),
        Measure(name="listing of one old row, p50", value=single, unit="ms", note="by feature"),
        Measure(name="listing that matches every row, p50", value=every, unit="ms", note="by usage mode"),
        Measure(
            name="reading all rows in order, p50",
            value=in_order,
            unit="ms",
            note="as release 0.1 did; only SQL",
        ),
    ]


async def _fill(connection: Any, since: datetime, until: datetime) -> None:
    """Insert rows directly into the ledger and wait until the service has rolled them up."""
    await connection.execute("SET synchronous_commit = off")
    started = time.perf_counter()
    for first in range(0, ROWS, CHUNK):
        last = min(first + CHUNK, ROWS) - 1
        await connection.execute(_LOAD, since, float(ROWS), until - since, first, last, SINGLE)
    await connection.execute("VACUUM ANALYZE usage_event")
    await connection.execute(_QUEUE)
    while await connection.fetchval("SELECT count(*) FROM job_queue WHERE kind = 'fold_usage'"):
        await connection.execute("SELECT pg_sleep(0.2)")
    await connection.execute("VACUUM ANALYZE usage_day_wide, usage_hour_wide")
    groups = await connection.fetchval("SELECT count(*) FROM usage_day_wide")
    progress(
        f"loaded and rolled up {ROWS:,} rows in {time.perf_counter() - started:.0f} s, {groups:,} groups of days"
    )


async def _list(service: Service, filters: dict[str, str], *, expected: int) -> float:
    """Return the median milliseconds of a listing."""
    path = f"/v1/organizations/{ORGANIZATION}/usage-events"
    taken = []
    for number in range(REQUESTS + 3):
        started = time.perf_counter()
        response = await service.request("GET", path, params=filters)
        if number >= 3:  # the first requests are the warm-up
            taken.append((time.perf_counter() - started) * 1000)
    assert len(response.json()["data"]) == expected, response.text[:500]
    progress(f"{', '.join(filters)}: {statistics.median(taken):.1f} ms")
    return statistics.median(taken)


async def _in_order(connection: Any) -> float:
    taken = []
    await connection.execute("SET enable_bitmapscan = off")
    for _ in range(5):
        started = time.perf_counter()
        rows: Sequence[Any] = await connection.fetch(_IN_ORDER, ORGANIZATION, "unknown")
        taken.append((time.perf_counter() - started) * 1000)
        assert not rows
    return statistics.median(taken)


async def _connect(service: Service) -> Any:
    url = service.database_url.set(drivername="postgresql").render_as_string(hide_password=False)
    return await asyncpg.connect(url)


if __name__ == "__main__":
    import asyncio

    from bench.measures import table

    print(table(asyncio.run(run())))
