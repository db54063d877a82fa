"""Ledger rows for tests of spend limits, inserted as ingestion does it."""

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa
from msgspec.structs import replace

from app.core.money import PICO_PER_USD
from app.database.engine import Database
from app.database.ledger_lock import LedgerLock
from app.database.statements import Query
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.rate_limits.service import RateLimiter, RateLimitKind
from app.spend_limits.service import SpendLimitService
from app.usage.tables import usage_event
from app.usage_events.records import LedgerRow, Outcome, TokenUsage, UsageFlag, UsageSource
from app.usage_mode.modes import UsageMode

_INSERT = Query(
    sa.insert(usage_event).values(
        {
            column.name: sa.literal_column("pg_current_xact_id()::text::bigint")
            if column.name == "ingest_xid"
            else sa.bindparam(column.name, type_=column.type)
            for column in usage_event.columns
        }
    )
)
_TOKENS = {
    "uncached_input_tokens": "uncached_input",
    "cache_write_5m_tokens": "cache_write_5m",
    "cache_write_1h_tokens": "cache_write_1h",
    "cache_read_tokens": "cache_read",
    "output_tokens": "output",
    "web_search_requests": "web_search_requests",
}
_counter = itertools.count()


def usd(amount: float | str) -> int:
    """An amount of US dollars in pico-USD."""
    whole, _, fraction = str(amount).partition(".")
    return int(whole) * PICO_PER_USD + int(fraction.ljust(12, "0") or "0")


def make_row(cost: int | None = PICO_PER_USD, **fields: Any) -> LedgerRow:
    """A managed event that started now and cost (and billed) one dollar."""
    mode = fields.get("mode", UsageMode.MANAGED)
    row = LedgerRow(
        started_at=datetime.now(UTC),
        event_id=f"event-{next(_counter)}-{uuid4().hex[:8]}",
        correction=0,
        completed_at=None,
        ingested_at=datetime.now(UTC),
        mode=mode,
        credential_id=None,
        key_version=None,
        model="claude-sonnet-4-5",
        endpoint_id=None,
        feature=None,
        session_id=None,
        prompt_id=None,
        outcome=Outcome.SUCCEEDED,
        usage_source=UsageSource.REPORTED,
        service_tier=None,
        speed=None,
        inference_geo=None,
        tokens=TokenUsage(uncached_input=100, output=10),
        cost=cost,
        billed=cost if cost is not None and mode is UsageMode.MANAGED else 0,
        price_version=None,
        flags=UsageFlag.NONE,
        provider_request_id=None,
        reservation_id=None,
    )
    return replace(row, **fields)


async def insert_ledger_rows(uow: UnitOfWork, rows: Sequence[LedgerRow]) -> None:
    """Insert rows in the order of the primary key, as ingestion does."""
    for row in sorted(rows, key=lambda one: (one.started_at, one.event_id)):
        values = {
            column.name: getattr(row, column.name, None)
            for column in usage_event.columns
            if column.name not in _TOKENS and column.name not in {"organization_id", "ingest_xid"}
        }
        tokens = {column: getattr(row.tokens, name) for column, name in _TOKENS.items()}
        session = uow._session  # these tests do not use the ledger's repository
        await session.execute(_INSERT, organization_id=uow.organization_id, **values, **tokens)


def limit_service(units: UnitsOfWork) -> SpendLimitService:
    """The service of spend limits, with a rate limit that tests do not reach."""
    return SpendLimitService(units, RateLimiter(units, {RateLimitKind.SPEND_LIMIT_WRITES: 1_000_000}))


async def ingest(database: Database, organization_id: str, *rows: LedgerRow) -> None:
    """Insert one batch into the ledger and count it in the limits, in one transaction under the shared ledger lock."""
    units = UnitsOfWork(database)
    async with units.writing(organization_id) as uow:
        await uow[LedgerLock].lock_shared()
        await insert_ledger_rows(uow, rows)
        await limit_service(units).settle(uow, rows)
        await uow.commit()


def row_of_reservation(reservation_id: str, cost: int | None = PICO_PER_USD, **fields: Any) -> LedgerRow:
    """The ledger row of the request for which a reservation was made."""
    return make_row(cost, reservation_id=UUID(reservation_id), **fields)
