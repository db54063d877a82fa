"""Rows of the ledger for tests that are about what becomes of them, written as ingestion writes them."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
"""Rows of the ledger, written as ingestion writes them: by the service's role, under the shared lock, the queue item last."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa

from app.core.database import Database, Statement
from app.domain.billing import UsageMode
from app.domain.money import PICO_PER_USD
from app.domain.usage import LedgerRow, Outcome, TokenUsage, UsageFlag, UsageSource
from app.models.usage import usage_event
from app.repositories.unit_of_work import UnitOfWork, UnitsOfWork
from app.services.limits import Limits

_INSERT = Statement(
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
    """Pico-USD."""
    whole, _, fraction = str(amount).partition(".")
    return int(whole) * PICO_PER_USD + int(fraction.ljust(12, "0") or "0")


def make_row(cost: int | None = PICO_PER_USD, **fields: Any) -> LedgerRow:
    """An event of now that cost a dollar; managed, so billed too."""
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


async def write(uow: UnitOfWork, rows: Sequence[LedgerRow]) -> None:
    """As ingestion does: into the ledger in the order of the key."""
    for row in sorted(rows, key=lambda one: (one.started_at, one.event_id)):
        values = {
            column.name: getattr(row, column.name, None)
            for column in usage_event.columns
            if column.name not in _TOKENS and column.name not in {"organization_id", "ingest_xid"}
        }
        tokens = {column: getattr(row.tokens, name) for column, name in _TOKENS.items()}
        session = uow._session  # the repository of the ledger is not what is tested
        await session.execute(_INSERT, organization_id=uow.organization_id, **values, **tokens)


async def ingest(database: Database, organization_id: str, *rows: LedgerRow) -> None:
    """One batch: rows into the ledger and into the limits, in one transaction, under the shared lock."""
    units = UnitsOfWork(database)
    async with units.writing(organization_id) as uow:
        await uow.limits.lock_shared()
        await write(uow, rows)
        await Limits(units).settle(uow, rows)
        await uow.commit()


def reserved_by(reservation_id: str, cost: int | None = PICO_PER_USD, **fields: Any) -> LedgerRow:
    """The event of a request that a reservation was made for."""
    return make_row(cost, reservation_id=UUID(reservation_id), **fields)
from app.core.database import Database, Session, Statement
from app.domain.clock import now
from app.domain.usage import Outcome
from app.models.usage import usage_event
from app.repositories.queue import QueueRepository
from app.services.folding import fold_of

_COLUMNS = [column for column in usage_event.c if column.name not in {"ingest_xid", "ingested_at"}]
_INSERT = Statement(
    sa.insert(usage_event).values(
        {column.name: sa.bindparam(column.name, type_=column.type) for column in _COLUMNS}
        | {
            "ingested_at": sa.func.clock_timestamp(),
            "ingest_xid": sa.cast(sa.cast(sa.func.pg_current_xact_id(), sa.Text), sa.BigInteger),
        }
    )
)
_LOCK_SHARED = Statement(
    sa.select(
        sa.func.pg_advisory_xact_lock_shared(
            sa.func.hashtext(sa.literal_column("'byok.usage_mode'")),
            sa.func.hashtext(sa.bindparam("organization_id", type_=sa.Text)),
        )
    )
)


@dataclass(frozen=True, kw_only=True)
class Event:
    """What counts of a row. `cost` is pico-USD; None: no price is known."""

    started_at: datetime
    event_id: str
    correction: int = 0
    mode: str = "managed"
    model: str = "claude-sonnet-4-5"
    endpoint_id: str | None = None
    feature: str | None = None
    session_id: str | None = None
    prompt_id: str | None = None
    credential_id: UUID | None = None
    key_version: int | None = None
    outcome: str = Outcome.SUCCEEDED
    uncached_input_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    cache_read_tokens: int = 0
    output_tokens: int = 0
    web_search_requests: int = 0
    cost: int | None = 0

    @property
    def billed(self) -> int:
        return self.cost or 0 if self.mode == "managed" else 0


def event(started_at: datetime, **fields: Any) -> Event:
    return Event(started_at=started_at, **{"event_id": uuid4().hex} | fields)


async def add(session: Session, organization_id: str, events: Sequence[Event]) -> None:
    """In a transaction that the caller commits."""
    await session.first(_LOCK_SHARED, organization_id=organization_id)
    unset: dict[str, Any] = {column.name: None for column in _COLUMNS}
    for it in events:
        own = {name: getattr(it, name) for name in unset if hasattr(it, name)}
        values = unset | {"usage_source": "reported", "flags": 0, "organization_id": organization_id} | own
        await session.execute(_INSERT, **values)
    await QueueRepository(session).add(fold_of(organization_id), due_at=now())


async def ingest(database: Database, organization_id: str, *events: Event) -> None:
    async with database.session(organization_id) as session:
        await add(session, organization_id, events)
        await session.commit()


async def make_room(owner: Any, start: datetime, end: datetime) -> None:
    """Partitions for the tests' months."""
    async with owner.begin() as connection:
        await connection.execute(
            sa.text("SELECT ensure_usage_partitions(:start, :end)"), {"start": start, "end": end}
        )
