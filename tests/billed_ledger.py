"""Rows of the ledger as ingestion leaves them, written under the lock that it takes."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.billing.month import BillingMonth
from app.usage.tables import usage_event

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


def present_month() -> BillingMonth:
    return BillingMonth.of(datetime.now(UTC))


def month_ago(months: int) -> BillingMonth:
    return BillingMonth.numbered(present_month().number - months)


def within(month: BillingMonth, *, days: float = 0) -> datetime:
    return month.starts_at + timedelta(days=days)


def row(
    organization: str, started_at: datetime, *, cost: int | None, mode: str = "managed", **more: Any
) -> dict[str, Any]:
    """An event; `billed` is what its mode says, unless given."""
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
    """What a row's cost lacked."""
    return (
        event
        | dict.fromkeys(_COUNTERS, 0)
        | {
            "correction": number,
            "cost": cost,
            "billed": cost if event["mode"] == "managed" else 0,
        }
    )


async def add(owner: AsyncEngine, *rows: dict[str, Any]) -> None:
    async with owner.begin() as connection:
        await add_within(connection, rows)


async def add_within(connection: AsyncConnection, rows: Sequence[dict[str, Any]]) -> None:
    """In a transaction of the caller's; the lock is held until it ends."""
    first = min(row["started_at"] for row in rows)
    last = max(row["started_at"] for row in rows)
    await connection.execute(
        sa.text("SELECT ensure_usage_partitions(:first, :last)"), {"first": first, "last": last}
    )
    await connection.execute(_LOCK_SHARED, {"organization_id": rows[0]["organization_id"]})
    xid = sa.cast(sa.cast(sa.func.pg_current_xact_id(), sa.Text), sa.BigInteger)
    for one in rows:
        await connection.execute(sa.insert(usage_event).values({**one, "ingest_xid": xid}))
