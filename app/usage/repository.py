"""The ledger: exact by event id, written in sorted batches, one round trip a statement."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, insert

from app.database.bulk import arrays, arrays_or_shared, given, given_or_shared
from app.database.engine import Query, Session
from app.usage.events import EventBatch
from app.usage.ledger_rows import LedgerRows
from app.usage.tables import usage_event as t
from app.usage.tables import usage_event_key as k
from app.usage_mode.history import ModeTimeline
from app.usage_mode.modes import UsageMode, UsageModePoint
from app.usage_mode.tables import usage_mode_change as m

_ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)


# Shared: events of one organization come in together, but not while its mode is switched or a month is closed.
_LOCKED = sa.select(
    sa.func.pg_advisory_xact_lock_shared(
        sa.func.hashtext(sa.literal_column("'byok.usage_mode'")), sa.func.hashtext(_ORGANIZATION)
    ).label("locked")
).cte("locked")
# The clock is read after the lock is had.
_BEGIN = Query(sa.select(sa.func.clock_timestamp().label("now"), _LOCKED.c.locked))

_m = m.alias("earlier")
_TIMELINE = Query(
    sa.select(m.c.effective_from, m.c.mode, m.c.credential_id, m.c.changed_by)
    .where(
        m.c.organization_id == _ORGANIZATION,
        m.c.effective_from <= sa.bindparam("now", type_=m.c.effective_from.type),
        m.c.effective_from
        >= sa.func.coalesce(
            sa.select(sa.func.max(_m.c.effective_from))
            .where(
                _m.c.organization_id == _ORGANIZATION,
                _m.c.effective_from <= sa.bindparam("earliest", type_=m.c.effective_from.type),
            )
            .scalar_subquery(),
            sa.literal_column("'-infinity'::timestamptz"),
        ),
    )
    .order_by(m.c.effective_from)
)
_keys = given(event_id=sa.Text, payload_hash=sa.LargeBinary, started_at=k.c.started_at.type)
# Sorted: overlapping batches then wait for each other in the same order, and never in a circle.
_FRESH = (
    insert(k)
    .from_select(
        ["organization_id", "event_id", "payload_hash", "started_at"],
        sa.select(_ORGANIZATION, _keys.c.event_id, _keys.c.payload_hash, _keys.c.started_at).order_by(
            _keys.c.event_id.collate("C")
        ),
    )
    .on_conflict_do_nothing()
    .returning(k.c.event_id)
    .cte("fresh")
)
_CLAIM = Query(sa.select(sa.func.array_agg(_FRESH.c.event_id).label("event_ids")))
_DIGESTS = Query(
    sa.select(k.c.event_id, k.c.payload_hash).where(
        k.c.organization_id == _ORGANIZATION,
        k.c.event_id == sa.any_(sa.bindparam("event_ids", type_=ARRAY(sa.Text))),
    )
)

# What each column is made of, by batch. Event ids make it as long as it is.
_COLUMNS: Mapping[str, Callable[[LedgerRows], list[Any]]] = {
    "started_at": lambda rows: [it.started_at for it in rows.events],
    "completed_at": lambda rows: [it.completed_at for it in rows.events],
    "mode": lambda rows: rows.modes,
    "credential_id": lambda rows: rows.credential_ids,
    "key_version": lambda rows: rows.key_versions,
    "model": lambda rows: [it.model for it in rows.events],
    "endpoint_id": lambda rows: [it.endpoint_id for it in rows.events],
    "feature": lambda rows: [it.feature for it in rows.events],
    "session_id": lambda rows: [it.session_id for it in rows.events],
    "prompt_id": lambda rows: [it.prompt_id for it in rows.events],
    "outcome": lambda rows: [it.outcome for it in rows.events],
    "usage_source": lambda rows: [it.usage_source for it in rows.events],
    "service_tier": lambda rows: [it.usage.service_tier for it in rows.events],
    "speed": lambda rows: [it.usage.speed for it in rows.events],
    "inference_geo": lambda rows: [it.usage.inference_geo for it in rows.events],
    "uncached_input_tokens": lambda rows: [it.uncached_input for it in rows.tokens],
    "cache_write_5m_tokens": lambda rows: [it.cache_write_5m for it in rows.tokens],
    "cache_write_1h_tokens": lambda rows: [it.cache_write_1h for it in rows.tokens],
    "cache_read_tokens": lambda rows: [it.cache_read for it in rows.tokens],
    "output_tokens": lambda rows: [it.output for it in rows.tokens],
    "web_search_requests": lambda rows: [it.web_search_requests for it in rows.tokens],
    "cost": lambda rows: rows.costs,
    "billed": lambda rows: rows.billed,
    "price_version": lambda rows: rows.price_versions,
    "flags": lambda rows: rows.flags,
    "provider_request_id": lambda rows: [it.provider_request_id for it in rows.events],
    "reservation_id": lambda rows: [it.reservation_id for it in rows.events],
}
_rows = given(event_id=sa.Text, **{name: t.c[name].type for name in _COLUMNS})
_INSERT = Query(
    sa.insert(t).from_select(
        ["organization_id", "ingested_at", "ingest_xid", "correction", "event_id", *_COLUMNS],
        sa.select(
            _ORGANIZATION,
            sa.bindparam("ingested_at", type_=t.c.ingested_at.type),
            sa.literal_column("(SELECT pg_current_xact_id()::text::bigint)"),
            sa.literal_column("0"),
            _rows.c.event_id,
            *(given_or_shared(_rows, name) for name in _COLUMNS),
        ),
    )
)


class UsageRepository:
    """One organization's ledger, as ingestion writes it."""

    def __init__(self, session: Session, organization_id: str) -> None:
        self._session = session
        self._organization_id = organization_id

    async def begin(self) -> datetime:
        """Keep switches of the mode out until this transaction ends; the instant from which on that holds."""
        row = await self._session.first(_BEGIN, organization_id=self._organization_id)
        assert row is not None
        now: datetime = row["now"]
        return now

    async def modes(self, *, earliest: datetime, now: datetime) -> ModeTimeline:
        """Which modes were in force from the earliest instant until now. Call `begin` first."""
        # Clients' clocks may be ahead: past a switch to come, which must not hide the mode of the present.
        found = await self._session.rows(
            _TIMELINE, organization_id=self._organization_id, earliest=min(earliest, now), now=now
        )
        return ModeTimeline(
            [
                UsageModePoint(
                    mode=UsageMode(row["mode"]),
                    credential_id=row["credential_id"],
                    effective_from=row["effective_from"],
                    changed_by=row["changed_by"],
                )
                for row in found
            ]
        )

    async def claim(self, batch: EventBatch) -> set[str]:
        """Take the event ids that nobody has; the ids taken. Waits for whoever is taking the same."""
        row = await self._session.first(
            _CLAIM,
            organization_id=self._organization_id,
            **arrays(
                event_id=[event.event_id for event in batch.events],
                payload_hash=batch.digests,
                started_at=[event.started_at for event in batch.events],
            ),
        )
        assert row is not None
        return set(row["event_ids"] or ())

    async def digests(self, event_ids: Sequence[str]) -> dict[str, bytes]:
        """What is recorded under these ids."""
        found = await self._session.rows(_DIGESTS, organization_id=self._organization_id, event_ids=event_ids)
        return {row["event_id"]: row["payload_hash"] for row in found}

    async def insert(self, rows: LedgerRows) -> None:
        """Append first rows of events whose ids were claimed."""
        await self._session.execute(
            _INSERT,
            organization_id=self._organization_id,
            ingested_at=rows.ingested_at,
            **arrays(event_id=[it.event_id for it in rows.events]),
            **arrays_or_shared(**{name: column(rows) for name, column in _COLUMNS.items()}),
        )
