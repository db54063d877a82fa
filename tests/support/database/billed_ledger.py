"""Ledger rows for tests of statements, inserted under the shared ledger lock as ingestion does it."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.billing.month import BillingMonth
from app.usage.tables import usage_event
from tests.support.database.ledger import create_partitions

PICO = 10**12
_COUNTERS = (
    "uncached_input_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "cache_read_tokens",
    "output_tokens",
    "web_search_requests",
)
_LOCK_SHARED = sa.text(
    "SELECT pg_advisory_xact_lock_shared(hashtext('byok.usage_mode'), hashtext(:organization_id))"
)


def current_month() -> BillingMonth:
    return BillingMonth.of(datetime.now(UTC))


def months_ago(months: int) -> BillingMonth:
    return BillingMonth.from_number(current_month().number - months)


def within(month: BillingMonth, *, days: float = 0) -> datetime:
    return month.starts_at + timedelta(days=days)


def row(
    organization: str, started_at: datetime, *, cost: int | None, mode: str = "managed", **more: Any
) -> dict[str, Any]:
    """A ledger row. `billed` follows from the usage mode unless it is passed."""
    billed = (cost or 0) if mode == "managed" else 0
    return {
        "organization_id": organization,
        "started_at": started_at,
        "event_id": uuid4().hex,
        "correction": 0,
        "ingested_at": datetime.now(UTC),
        "mode": mode,
        "model": "claude-sonnet-4-5",
        "outcome": "succeeded",
        "usage_source": "reported",
        "cost": cost,
        "billed": billed,
        "flags": 0,
        **dict.fromkeys(_COUNTERS, 0),
        **more,
    }


def correction_of(event: dict[str, Any], cost: int, *, number: int = 1) -> dict[str, Any]:
    """A correction that adds to the cost of a row."""
    return (
        event
        | dict.fromkeys(_COUNTERS, 0)
        | {
            "correction": number,
            "cost": cost,
            "billed": cost if event["mode"] == "managed" else 0,
        }
    )


async def insert_rows(superuser: AsyncEngine, *rows: dict[str, Any]) -> None:
    # In a separate transaction: on Citus, tables that a function of the owner changed cannot be used by another role.
    times = [row["started_at"] for row in rows]
    await create_partitions(superuser, min(times), max(times))
    async with superuser.begin() as connection:
        await insert_rows_within(connection, rows)


async def insert_rows_within(connection: AsyncConnection, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows, whose partitions exist, in the caller's transaction, which holds the ledger lock until it ends."""
    await connection.execute(_LOCK_SHARED, {"organization_id": rows[0]["organization_id"]})
    xid = sa.cast(sa.cast(sa.func.pg_current_xact_id(), sa.Text), sa.BigInteger)
    for one in rows:
        await connection.execute(sa.insert(usage_event).values({**one, "ingest_xid": xid}))
