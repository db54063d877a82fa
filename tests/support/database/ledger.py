"""Ledger rows for tests of reports.

They are inserted as ingestion does it: with the service's role, under the shared ledger lock, the queue item last.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa

from app.core.clock import now
from app.database.engine import Database
from app.database.ledger_lock import LedgerLock
from app.database.sessions import Session
from app.database.statements import Query
from app.jobs.queue import QueueRepository
from app.usage.tables import usage_event
from app.usage_events.records import Outcome
from app.usage_reports.rollup_worker import rollup_job

_COLUMNS = [column for column in usage_event.c if column.name not in {"ingest_xid", "ingested_at"}]
_INSERT = Query(
    sa.insert(usage_event).values(
        {column.name: sa.bindparam(column.name, type_=column.type) for column in _COLUMNS}
        | {
            "ingested_at": sa.func.clock_timestamp(),
            "ingest_xid": sa.cast(sa.cast(sa.func.pg_current_xact_id(), sa.Text), sa.BigInteger),
        }
    )
)


@dataclass(frozen=True, kw_only=True)
class Event:
    """The columns of a ledger row that reports use. `cost` is in pico-USD; None: the price is unknown."""

    started_at: datetime
    event_id: str
    part: int = 0
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
    usage_source: str = "reported"
    service_tier: str | None = None
    speed: str | None = None
    inference_geo: str | None = None
    flags: int = 0
    provider_request_id: str | None = None
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


async def insert_events(session: Session, organization_id: str, events: Sequence[Event]) -> None:
    """Insert rows in a transaction that the caller commits."""
    await LedgerLock(session, organization_id).lock_shared()
    unset: dict[str, Any] = {column.name: None for column in _COLUMNS}
    for it in events:
        own = {name: getattr(it, name) for name in unset if hasattr(it, name)}
        values = unset | {"organization_id": organization_id} | own
        await session.execute(_INSERT, **values)
    await QueueRepository(session, organization_id).add(rollup_job(organization_id), due_at=now())


async def ingest(database: Database, organization_id: str, *events: Event) -> None:
    async with database.session(organization_id) as session:
        await insert_events(session, organization_id, events)
        await session.commit()


async def create_partitions(superuser: Any, start: datetime, end: datetime) -> None:
    """Create the ledger's partitions for these months."""
    async with superuser.begin() as connection:
        await connection.execute(
            sa.text("SELECT ensure_usage_partitions(:start, :end)"), {"start": start, "end": end}
        )
