"""The baseline for ingestion: bare asyncpg writes the same rows into the same tables.

python -m bench.ingestion_bare --database URL --batches 50

Two statements per batch, both with ON CONFLICT, in one transaction on one connection. Prints the duration as JSON.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

import asyncpg
import uvloop

from bench.events import events

BATCH = 1000
ORGANIZATION = "org_bench_bare"
TIMEOUT_SECONDS = 500.0

_KEYS = """
INSERT INTO usage_event_key (organization_id, event_id, payload_hash, started_at)
SELECT $1, u.* FROM unnest($2::text[], $3::bytea[], $4::timestamptz[]) u(event_id, payload_hash, started_at)
ORDER BY event_id ON CONFLICT DO NOTHING"""
_TYPES = {
    "started_at": "timestamptz",
    "event_id": "text",
    "completed_at": "timestamptz",
    "mode": "text",
    "credential_id": "uuid",
    "key_version": "integer",
    **dict.fromkeys(("model", "endpoint_id", "feature", "session_id", "prompt_id"), "text"),
    **dict.fromkeys(("outcome", "usage_source", "service_tier", "speed", "inference_geo"), "text"),
    **dict.fromkeys(("uncached_input_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens"), "bigint"),
    **dict.fromkeys(
        ("cache_read_tokens", "output_tokens", "web_search_requests", "cost", "billed"), "bigint"
    ),
    "price_version": "text",
    "flags": "integer",
    "provider_request_id": "text",
    "reservation_id": "uuid",
}
_ROWS = f"""
INSERT INTO usage_event (organization_id, ingested_at, ingest_xid, correction, {", ".join(_TYPES)})
SELECT $1, $2, (SELECT pg_current_xact_id()::text::bigint), 0, u.*
FROM unnest({", ".join(f"${at}::{kind}[]" for at, kind in enumerate(_TYPES.values(), 3))}) u({", ".join(_TYPES)})
ON CONFLICT DO NOTHING"""


async def write(database: str, *, batches: int) -> float:
    """Run the writer in a separate process; return its duration in seconds."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.ingestion_bare", "--database", database, "--batches", str(batches)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, "the bare writer failed"
    return float(json.loads(output)["seconds"])


def _columns(batch: list[dict[str, Any]]) -> dict[str, list[Any]]:
    usages = [event["usage"] for event in batch]
    nulls: list[Any] = [None] * len(batch)
    zeros = [0] * len(batch)
    own = {
        name: [event.get(name) for event in batch]
        for name in ("event_id", "model", "endpoint_id", "feature", "session_id", "prompt_id", "outcome")
    }
    return {
        **own,
        "started_at": [datetime.fromisoformat(event["started_at"]) for event in batch],
        "completed_at": [datetime.fromisoformat(event["completed_at"]) for event in batch],
        "mode": ["managed"] * len(batch),
        "credential_id": nulls,
        "key_version": nulls,
        "usage_source": [event["usage_source"] for event in batch],
        **{name: [it[name] for it in usages] for name in ("service_tier", "speed", "inference_geo")},
        "uncached_input_tokens": [it["input_tokens"] for it in usages],
        "cache_write_5m_tokens": [it["cache_creation_input_tokens"] for it in usages],
        "cache_write_1h_tokens": zeros,
        "cache_read_tokens": [it["cache_read_input_tokens"] for it in usages],
        "output_tokens": [it["output_tokens"] for it in usages],
        "web_search_requests": zeros,
        "cost": nulls,
        "billed": zeros,
        "price_version": nulls,
        "flags": zeros,
        "provider_request_id": [event["provider_request_id"] for event in batch],
        "reservation_id": nulls,
    }


async def _write(database: str, batches: int) -> float:
    prepared = [_columns(list(events(BATCH))) for _ in range(batches)]
    digests = [[blake2b(it.encode(), digest_size=16).digest() for it in c["event_id"]] for c in prepared]
    connection = await asyncpg.connect(database)
    started_at = time.perf_counter()
    for columns, hashes in zip(prepared, digests, strict=True):
        async with connection.transaction():
            await connection.execute(_KEYS, ORGANIZATION, columns["event_id"], hashes, columns["started_at"])
            await connection.execute(
                _ROWS, ORGANIZATION, datetime.now(UTC), *(columns[name] for name in _TYPES)
            )
    seconds = time.perf_counter() - started_at
    await connection.close()
    return seconds


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--database", required=True)
    parser.add_argument("--batches", type=int, required=True)
    options = parser.parse_args()
    print(json.dumps({"seconds": uvloop.run(_write(options.database, options.batches))}))
