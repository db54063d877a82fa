"""The ledger: exact by event id, written in sorted batches, one round trip a statement."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, insert

from app.core.database import Session, Statement
from app.domain.billing import UsageMode, UsageModePoint
from app.domain.ledger import LedgerRows
from app.domain.timelines import KeyTimeline, ModeTimeline, VersionInTime
from app.domain.usage_events import EventBatch
from app.models.billing import usage_mode_change as m
from app.models.credentials import credential_version as v
from app.models.credentials import provider_credential as c
from app.models.rotation import credential_rotation as r
from app.models.usage import usage_event as t
from app.models.usage import usage_event_key as k

# A key's last use is noted at most this often, so that its row is no hot spot.
USE_NOTED_EVERY = timedelta(minutes=1)

_ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)


def _given(**types: Any) -> sa.TableValuedAlias:
    """Arrays of a batch as a table."""
    arrays = (sa.bindparam(f"{name}_of_all", type_=ARRAY(kind)) for name, kind in types.items())
    columns = (sa.column(name, kind) for name, kind in types.items())
    return sa.func.unnest(*arrays).table_valued(*columns, name="given").render_derived()


def _arrays(**columns: Sequence[Any]) -> dict[str, Sequence[Any]]:
    return {f"{name}_of_all": values for name, values in columns.items()}


# Shared: events of one organization come in together, but not while its mode is switched or a month is closed.
_LOCKED = sa.select(
    sa.func.pg_advisory_xact_lock_shared(
        sa.func.hashtext(sa.literal_column("'byok.usage_mode'")), sa.func.hashtext(_ORGANIZATION)
    ).label("locked")
).cte("locked")
# The clock is read after the lock is had.
_BEGIN = Statement(sa.select(sa.func.clock_timestamp().label("now"), _LOCKED.c.locked))

_m = m.alias("earlier")
_TIMELINE = Statement(
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
_VERSIONS = Statement(
    sa.select(v.c.credential_id, v.c.key_version, v.c.activated_at, v.c.base_url, r.c.decided_at)
    .select_from(
        v.outerjoin(
            r,
            sa.and_(
                r.c.organization_id == v.c.organization_id,
                r.c.credential_id == v.c.credential_id,
                r.c.key_version == v.c.key_version,
                r.c.state == sa.literal_column("'activated'"),
            ),
        )
    )
    .where(
        v.c.organization_id == _ORGANIZATION,
        v.c.credential_id == sa.any_(sa.bindparam("credential_ids", type_=ARRAY(v.c.credential_id.type))),
        v.c.state.not_in(sa.literal_column(word) for word in ("'intent'", "'abandoned'")),
    )
)

_keys = _given(event_id=sa.Text, payload_hash=sa.LargeBinary, started_at=k.c.started_at.type)
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
_CLAIM = Statement(sa.select(sa.func.array_agg(_FRESH.c.event_id).label("event_ids")))
_DIGESTS = Statement(
    sa.select(k.c.event_id, k.c.payload_hash).where(
        k.c.organization_id == _ORGANIZATION,
        k.c.event_id == sa.any_(sa.bindparam("event_ids", type_=ARRAY(sa.Text))),
    )
)

# What each column is made of, by batch.
_COLUMNS: Mapping[str, Callable[[LedgerRows], Sequence[Any]]] = {
    "started_at": lambda rows: [it.started_at for it in rows.events],
    "event_id": lambda rows: [it.event_id for it in rows.events],
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
_rows = _given(**{name: t.c[name].type for name in _COLUMNS})
_INSERT = Statement(
    sa.insert(t).from_select(
        ["organization_id", "ingested_at", "ingest_xid", "correction", *_COLUMNS],
        sa.select(
            _ORGANIZATION,
            sa.bindparam("ingested_at", type_=t.c.ingested_at.type),
            sa.literal_column("(SELECT pg_current_xact_id()::text::bigint)"),
            sa.literal_column("0"),
            *(_rows.c[name] for name in _COLUMNS),
        ),
    )
)

_LATEST = {"credential_id": v.c.credential_id.type, "used_at": v.c.last_used_at.type}
_used = _given(key_version=sa.Integer, **_LATEST)
_STALE_VERSIONS = (
    sa.select(v.c.credential_id, v.c.key_version, _used.c.used_at)
    .where(
        v.c.organization_id == _ORGANIZATION,
        v.c.credential_id == _used.c.credential_id,
        v.c.key_version == _used.c.key_version,
        sa.or_(
            v.c.last_used_at.is_(None),
            v.c.last_used_at < _used.c.used_at - sa.bindparam("apart", type_=sa.Interval),
        ),
    )
    .order_by(v.c.credential_id, v.c.key_version)
    .with_for_update(key_share=True, of=v)
    .cte("stale")
)
_NOTE_VERSIONS = Statement(
    sa.update(v)
    .where(
        v.c.organization_id == _ORGANIZATION,
        v.c.credential_id == _STALE_VERSIONS.c.credential_id,
        v.c.key_version == _STALE_VERSIONS.c.key_version,
    )
    .values(last_used_at=sa.func.greatest(v.c.last_used_at, _STALE_VERSIONS.c.used_at))
)
_used_credentials = _given(**_LATEST)
_STALE_CREDENTIALS = (
    sa.select(c.c.id, _used_credentials.c.used_at)
    .where(
        c.c.organization_id == _ORGANIZATION,
        c.c.id == _used_credentials.c.credential_id,
        sa.or_(
            c.c.last_used_at.is_(None),
            c.c.last_used_at < _used_credentials.c.used_at - sa.bindparam("apart", type_=sa.Interval),
        ),
    )
    # Whoever changes a credential may hold it and wait for a version that we hold; a later event notes the use.
    .with_for_update(key_share=True, skip_locked=True, of=c)
    .cte("stale")
)
_NOTE_CREDENTIALS = Statement(
    sa.update(c)
    .where(c.c.organization_id == _ORGANIZATION, c.c.id == _STALE_CREDENTIALS.c.id)
    .values(last_used_at=sa.func.greatest(c.c.last_used_at, _STALE_CREDENTIALS.c.used_at))
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
        found = await self._session.rows(
            _TIMELINE, organization_id=self._organization_id, earliest=earliest, now=now
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

    async def key_timelines(self, credential_ids: Iterable[UUID]) -> dict[UUID, KeyTimeline]:
        """Those of the credentials that exist, deleted ones too."""
        found = await self._session.rows(
            _VERSIONS, organization_id=self._organization_id, credential_ids=list(credential_ids)
        )
        versions: dict[UUID, list[VersionInTime]] = {}
        for row in found:
            versions.setdefault(row["credential_id"], []).append(
                VersionInTime(
                    key_version=row["key_version"],
                    activated_at=row["activated_at"],
                    rotated_at=row["decided_at"],
                    base_url=row["base_url"],
                )
            )
        return {credential_id: KeyTimeline(its) for credential_id, its in versions.items()}

    async def claim(self, batch: EventBatch) -> set[str]:
        """Take the event ids that nobody has; the ids taken. Waits for whoever is taking the same."""
        row = await self._session.first(
            _CLAIM,
            organization_id=self._organization_id,
            **_arrays(
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
            **_arrays(**{name: column(rows) for name, column in _COLUMNS.items()}),
        )

    async def note_uses(self, uses: Mapping[tuple[UUID, int | None], datetime]) -> None:
        """When keys were last used: never back in time, and not again within a minute."""
        versions = [(key[0], key[1], at) for key, at in uses.items() if key[1] is not None]
        if versions:
            await self._session.execute(
                _NOTE_VERSIONS,
                organization_id=self._organization_id,
                apart=USE_NOTED_EVERY,
                **_arrays(
                    credential_id=[it[0] for it in versions],
                    key_version=[it[1] for it in versions],
                    used_at=[it[2] for it in versions],
                ),
            )
        latest: dict[UUID, datetime] = {}
        for (credential_id, _), at in uses.items():
            latest[credential_id] = max(at, latest.get(credential_id, at))
        await self._session.execute(
            _NOTE_CREDENTIALS,
            organization_id=self._organization_id,
            apart=USE_NOTED_EVERY,
            **_arrays(credential_id=list(latest), used_at=list(latest.values())),
        )
