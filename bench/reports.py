"""Measures reports as the ledger grows: 30 days, by day, mode and model, of an organization with 13 % of all rows.

Two services have separate databases, one with ten times the rows of the other. Requests alternate between them, so that
other load affects both equally. For comparison, DuckDB scans the same rows in Parquet. BYOK_BENCH_ROWS sets the number of
rows of the larger database; the targets are meant for 10000000.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import duckdb

from bench.measures import Measure, progress
from tests.support.processes.service import Service, running

ORGANIZATION = "org_big"
ROWS = int(os.environ.get("BYOK_BENCH_ROWS", "1000000"))
DAYS = 30
CHUNK = 250_000
REQUESTS = 400
SCANS = 15
MAX_RATIO = 1.5

# Row n of ROWS starts at n/ROWS of the period. 13 % of the rows belong to one organization.
_LOAD = """
INSERT INTO usage_event
SELECT CASE WHEN n % 100 < 13 THEN 'org_big' ELSE 'org_' || n % 200 END,
    $1::timestamptz + (n::float8 / $2) * $3::interval, 'event_' || n, 0, NULL, now(),
    pg_current_xact_id()::text::bigint, CASE WHEN n % 3 = 0 THEN 'byo' ELSE 'managed' END, NULL, NULL,
    (ARRAY['claude-haiku-4-5', 'claude-sonnet-4-5', 'claude-opus-4-1', 'claude-sonnet-4-0'])[1 + n / 100 % 4],
    'endpoint_' || n / 400 % 3, 'feature_' || n / 400 % 3, NULL, NULL, 'succeeded', 'reported', NULL, NULL, NULL,
    n % 4000, n % 300, 0, n % 9000, n % 1000, 0, n % 100000 * 1000000,
    CASE WHEN n % 3 = 0 THEN 0 ELSE n % 100000 * 1000000 END, NULL, 0, NULL, NULL
FROM generate_series($4::bigint, $5::bigint) n
"""
_QUEUE = """
INSERT INTO job_queue
VALUES ('org_big', 'fold_usage', '00000000-0000-0000-0000-000000000000'::uuid, now())
ON CONFLICT DO NOTHING
"""
_EXPORT = """
SELECT organization_id, started_at, correction, mode, model, uncached_input_tokens, cache_write_5m_tokens,
    cache_write_1h_tokens, cache_read_tokens, output_tokens, web_search_requests, cost, billed FROM usage_event
"""
_SCAN = """
SELECT date_trunc('day', started_at) AS bucket, mode, model, count(*) FILTER (correction = 0),
    sum(uncached_input_tokens), sum(cache_write_5m_tokens), sum(cache_write_1h_tokens), sum(cache_read_tokens),
    sum(output_tokens), sum(web_search_requests), sum(cost), sum(billed), count(*) FILTER (cost IS NULL)
FROM read_parquet(?) WHERE organization_id = ? AND started_at >= ? AND started_at < ? GROUP BY ALL ORDER BY ALL
"""


async def run() -> list[Measure]:
    until = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    since = until - timedelta(days=DAYS)
    sizes = (ROWS // 10, ROWS)
    async with AsyncExitStack() as stack:
        services = [await stack.enter_async_context(running(JOBS__INTERVAL="1s")) for _ in sizes]
        rollup_rates = [
            await _fill(service, rows, since, until) for service, rows in zip(services, sizes, strict=True)
        ]
        parameters = {"starting_at": since.isoformat(), "ending_at": until.isoformat(), "limit": "10000"}
        small, large = await _request_alternately(
            services, parameters | {"group_by[]": ["usage_mode", "model"]}
        )
        scans = await _scan(services[-1], since, until)
    ratio = _p99(large) / _p99(small)
    return [
        Measure(
            name=f"report over {ROWS:,} rows, p99, ratio to a tenth of them",
            value=ratio,
            unit="x",
            at_most=MAX_RATIO,
            note=f"{_p99(large):.1f} ms and {_p99(small):.1f} ms",
        ),
        Measure(
            name=f"report over {ROWS:,} rows, p50",
            value=statistics.median(large),
            unit="ms",
            note=f"{statistics.median(small):.1f} ms over a tenth; through HTTP",
        ),
        Measure(
            name="DuckDB over the same rows, p50",
            value=statistics.median(scans),
            unit="ms",
            note=f"Parquet, warm; report faster by {statistics.median(scans) / statistics.median(large):.1f}",
        ),
        Measure(
            name="rollup", value=rollup_rates[-1], unit="rows/s", note="in the background of the service"
        ),
    ]


async def _fill(service: Service, rows: int, since: datetime, until: datetime) -> float:
    """Insert rows directly into the ledger and wait until the service has rolled up the organization's; return rows/s."""
    connection = await _connect(service)
    await connection.execute("SET synchronous_commit = off")
    started = time.perf_counter()
    for first in range(0, rows, CHUNK):
        last = min(first + CHUNK, rows) - 1
        await connection.execute(_LOAD, since, float(rows), until - since, first, last)
    progress(f"loaded {rows:,} rows in {time.perf_counter() - started:.0f} s")
    await connection.execute("VACUUM ANALYZE usage_event")
    started = time.perf_counter()
    await connection.execute(_QUEUE)
    while await connection.fetchval("SELECT count(*) FROM job_queue WHERE kind = 'fold_usage'"):
        await connection.execute("SELECT pg_sleep(0.2)")
    seconds = time.perf_counter() - started
    rolled_up = rows * 13 // 100
    progress(f"rolled up {rolled_up:,} rows in {seconds:.0f} s")
    await connection.execute("VACUUM ANALYZE usage_hour, usage_day, usage_hour_detail, usage_day_detail")
    await connection.close()
    return rolled_up / seconds


async def _request_alternately(services: Sequence[Service], parameters: dict[str, Any]) -> list[list[float]]:
    """Return the milliseconds of each request, by service."""
    path = f"/v1/organizations/{ORGANIZATION}/usage-report"
    taken: list[list[float]] = [[] for _ in services]
    for number in range(REQUESTS + 20):
        for service, milliseconds in zip(services, taken, strict=True):
            started = time.perf_counter()
            response = await service.request("GET", path, params=parameters)
            if number >= 20:  # the first requests are the warm-up
                milliseconds.append((time.perf_counter() - started) * 1000)
    for expected_rows, service in zip((ROWS // 10, ROWS), services, strict=True):
        response = await service.request("GET", path, params=parameters)
        results = [result for bucket in response.json()["data"] for result in bucket["results"]]
        assert sum(result["requests"] for result in results) == expected_rows * 13 // 100, response.text[:500]
    progress(f"{REQUESTS} reports over each, of {len(results)} results")
    return taken


async def _scan(service: Service, since: datetime, until: datetime) -> list[float]:
    with tempfile.TemporaryDirectory(prefix="byok-bench-") as directory:
        rows, parquet = Path(directory, "rows.csv"), Path(directory, "rows.parquet")
        connection = await _connect(service)
        await connection.copy_from_query(_EXPORT, output=rows, format="csv", header=True, timeout=900)
        await connection.close()
        with duckdb.connect() as duck:
            duck.execute("SET TimeZone = 'UTC'")
            duck.execute(
                "COPY (SELECT * FROM read_csv($rows, types = {'started_at': 'TIMESTAMPTZ', 'cost': 'BIGINT'}))"
                " TO '" + str(parquet) + "' (FORMAT parquet)",
                {"rows": str(rows)},
            )
            taken = []
            progress("exported to Parquet")
            for _ in range(SCANS):
                started = time.perf_counter()
                found = duck.execute(_SCAN, [str(parquet), ORGANIZATION, since, until]).fetchall()
                taken.append((time.perf_counter() - started) * 1000)
    assert sum(row[3] for row in found) == ROWS * 13 // 100
    return taken


async def _connect(service: Service) -> Any:
    url = service.database_url.set(drivername="postgresql").render_as_string(hide_password=False)
    return await asyncpg.connect(url)


def _p99(milliseconds: Sequence[float]) -> float:
    return statistics.quantiles(milliseconds, n=100)[98]


if __name__ == "__main__":
    import asyncio

    from bench.measures import table

    print(table(asyncio.run(run())))
