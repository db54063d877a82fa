"""Writes the ledger: each event id exactly once, in sorted batches, with one round trip per statement."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.core.event_loop import TimeSlice
from app.database.bulk import (
    bulk_params,
    bulk_params_or_constant,
    found_for_each,
    unnest,
    unnest_or_constant,
)
from app.database.repository import Repository
from app.database.statements import Query
from app.usage.ledger_rows import LedgerRows
from app.usage.tables import usage_event as t
from app.usage.tables import usage_event_key as k
from app.usage.tables import usage_object as o
from app.usage.tables import usage_request_key as q
from app.usage_events.events import EventBatch
from app.usage_mode.history import ModeHistory
from app.usage_mode.modes import ModeChange, UsageMode

_ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)

# A client's clock may be ahead, past a scheduled change. That change must not hide the current mode. It also finds out
# whether the organization has price overrides, so that the others need no round trip to read them.
_RATING_CONTEXT = Query(
    sa.text("""
    WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now)
    SELECT clock.now, m.effective_from, m.mode, m.credential_id, m.changed_by, EXISTS (
        SELECT FROM price_override_list p WHERE p.organization_id = CAST(:organization_id AS text)
    ) AS has_price_overrides
    FROM clock LEFT JOIN usage_mode_change m ON m.organization_id = CAST(:organization_id AS text)
        AND m.effective_from <= clock.now
        AND m.effective_from >= coalesce((
            SELECT max(e.effective_from) FROM usage_mode_change e
            WHERE e.organization_id = CAST(:organization_id AS text)
                AND e.effective_from <= least(CAST(:earliest AS timestamptz), clock.now)), '-infinity')
    ORDER BY m.effective_from
    """)
)
_keys = unnest(event_id=sa.Text, payload_hash=sa.LargeBinary, started_at=k.c.started_at.type)
# Sorted, so that overlapping batches lock event ids in the same order and cannot deadlock.
_INSERTED_KEYS = (
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
# The first event of each provider request, sorted for the same reason, and after all event ids: the first comparison reads
# them all. IS TRUE makes that a lookup in a hash table, where a join might compare each with each.
_requests = unnest(event_id=sa.Text, started_at=k.c.started_at.type, provider_request_id=sa.Text)
_INSERTED_REQUESTS = (
    insert(q)
    .from_select(
        ["organization_id", "provider_request_id", "started_at"],
        sa.select(_ORGANIZATION, _requests.c.provider_request_id, _requests.c.started_at)
        .where(
            _requests.c.provider_request_id.is_not(None),
            _requests.c.event_id.in_(sa.select(_INSERTED_KEYS.c.event_id)).is_(sa.true()),
        )
        .order_by(_requests.c.provider_request_id.collate("C"), _requests.c.started_at),
    )
    .on_conflict_do_nothing()
    .returning(q.c.provider_request_id)
    .cte("first_requests")
)
_CLAIM = Query(
    sa.select(
        sa.select(sa.func.array_agg(_INSERTED_KEYS.c.event_id)).scalar_subquery().label("event_ids"),
        sa.select(sa.func.array_agg(_INSERTED_REQUESTS.c.provider_request_id))
        .scalar_subquery()
        .label("request_ids"),
    )
)
# For batches without provider requests.
_CLAIM_KEYS = Query(
    sa.select(sa.func.array_agg(_INSERTED_KEYS.c.event_id).label("event_ids")).select_from(_INSERTED_KEYS)
)
# After that, in another cell: Citus sends the result of one INSERT that another one uses to all workers, so a worker that is
# down would keep the organizations of the others from ingestion.
_INSERTED_FRESH_REQUESTS = (
    insert(q)
    .from_select(
        ["organization_id", "provider_request_id", "started_at"],
        sa.select(_ORGANIZATION, _requests.c.provider_request_id, _requests.c.started_at).order_by(
            _requests.c.provider_request_id.collate("C"), _requests.c.started_at
        ),
    )
    .on_conflict_do_nothing()
    .returning(q.c.provider_request_id)
    .cte("first_requests")
)
_CLAIM_REQUESTS = Query(
    sa.select(sa.func.array_agg(_INSERTED_FRESH_REQUESTS.c.provider_request_id).label("request_ids"))
)
# One event on Citus, which writes rows that are not constants in two steps, with a temporary file on the worker and a
# two-phase commit. It takes functions in VALUES from the coordinator, so the transaction number is the coordinator's.
_CLAIM_ONE_KEY = Query(
    insert(k)
    .values(
        organization_id=_ORGANIZATION,
        event_id=sa.bindparam("event_id", type_=sa.Text),
        payload_hash=sa.bindparam("payload_hash", type_=sa.LargeBinary),
        started_at=sa.bindparam("started_at", type_=k.c.started_at.type),
    )
    .on_conflict_do_nothing()
    .returning(k.c.event_id)
)
_CLAIM_ONE_REQUEST = Query(
    insert(q)
    .values(
        organization_id=_ORGANIZATION,
        provider_request_id=sa.bindparam("provider_request_id", type_=sa.Text),
        started_at=sa.bindparam("started_at", type_=q.c.started_at.type),
    )
    .on_conflict_do_nothing()
    .returning(q.c.provider_request_id)
)
_ids = unnest(event_id=sa.Text)
_recorded = found_for_each(
    sa.select(k.c.event_id, k.c.payload_hash).where(
        k.c.organization_id == _ORGANIZATION, k.c.event_id == _ids.c.event_id
    ),
    "recorded",
)
_DIGESTS = Query(sa.select(*_recorded.c).select_from(_ids.join(_recorded, sa.true())))

# The values of each column. Event ids are separate: their array determines the number of rows.
_COLUMNS: Mapping[str, Callable[[LedgerRows], list[Any]]] = {
    "part": lambda rows: rows.parts,
    "started_at": lambda rows: [it.started_at for it in rows.events],
    "completed_at": lambda rows: [it.completed_at for it in rows.events],
    "mode": lambda rows: rows.modes,
    "credential_id": lambda rows: rows.credential_ids,
    "key_version": lambda rows: rows.key_versions,
    "model": lambda rows: rows.models,
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
    "corrects": lambda rows: [it.corrects for it in rows.events],
}
_objects = unnest(month=o.c.month.type, objects=sa.LargeBinary)
_INSERTED_OBJECTS = (
    insert(o)
    .from_select(
        ["organization_id", "ingested_at", "ingest_xid", "month", "objects"],
        sa.select(
            _ORGANIZATION,
            sa.bindparam("ingested_at", type_=t.c.ingested_at.type),
            sa.literal_column("(SELECT pg_current_xact_id()::text::bigint)"),
            _objects.c.month,
            _objects.c.objects,
        ),
    )
    .returning(sa.literal_column("1"))
    .cte("inserted_objects")
)
_rows = unnest(event_id=sa.Text, **{name: t.c[name].type for name in _COLUMNS})
_ROWS_PER_INSERT = 500
# Inside a CTE with RETURNING, because Citus writes the rows of another INSERT with COPY, which row-level security refuses.
_INSERTED_ROWS = (
    sa.insert(t)
    .from_select(
        ["organization_id", "ingested_at", "ingest_xid", "correction", "event_id", *_COLUMNS],
        sa.select(
            _ORGANIZATION,
            sa.bindparam("ingested_at", type_=t.c.ingested_at.type),
            sa.literal_column("(SELECT pg_current_xact_id()::text::bigint)"),
            sa.literal_column("0"),
            _rows.c.event_id,
            *(unnest_or_constant(_rows, name) for name in _COLUMNS),
        ),
    )
    .returning(sa.literal_column("1"))
    .cte("inserted_rows")
)
_INSERT = Query(sa.select(sa.func.count().label("n")).select_from(_INSERTED_ROWS).add_cte(_INSERTED_OBJECTS))
_XID_OF_ONE: sa.ColumnElement[int] = sa.literal_column("pg_current_xact_id()::text::bigint")
_INSERT_ONE_OBJECT = Query(
    sa.insert(o).values(
        organization_id=_ORGANIZATION,
        ingested_at=sa.bindparam("ingested_at", type_=o.c.ingested_at.type),
        ingest_xid=_XID_OF_ONE,
        month=sa.bindparam("month", type_=o.c.month.type),
        objects=sa.bindparam("objects", type_=sa.LargeBinary),
    )
)
_INSERT_ONE_ROW = Query(
    sa.insert(t).values(
        organization_id=_ORGANIZATION,
        ingested_at=sa.bindparam("ingested_at", type_=t.c.ingested_at.type),
        ingest_xid=_XID_OF_ONE,
        correction=sa.literal_column("0"),
        event_id=sa.bindparam("event_id", type_=sa.Text),
        **{name: sa.bindparam(name, type_=t.c[name].type) for name in _COLUMNS},
    )
)
# Of these, a statement for each costs less than the file and the two-phase commit.
_FEW = 4


class ClaimedIds(NamedTuple):
    """The ids of a batch that did not exist before: of events, and of provider requests of these events."""

    event_ids: frozenset[str]
    request_ids: frozenset[str]


class RatingContext(NamedTuple):
    """What prices and modes depend on: the modes by time, the database's clock, and whether there are price overrides."""

    mode_history: ModeHistory
    now: datetime
    has_price_overrides: bool


class UsageRepository(Repository):
    """Writes the ledger of one organization."""

    async def rating_context(self, *, earliest: datetime) -> RatingContext:
        """Read the usage modes that were active from `earliest` until now, by the database's clock.

        Take the ledger lock first.
        """
        found = await self._session.rows(
            _RATING_CONTEXT, organization_id=self._organization_id, earliest=earliest
        )
        changes = [
            ModeChange(
                mode=UsageMode(row["mode"]),
                credential_id=row["credential_id"],
                effective_from=row["effective_from"],
                changed_by=row["changed_by"],
            )
            for row in found
            if row["effective_from"] is not None
        ]
        return RatingContext(ModeHistory(changes), found[0]["now"], found[0]["has_price_overrides"])

    async def claim(self, batch: EventBatch) -> ClaimedIds:
        """Insert the ids that do not exist yet and return them. Waits for transactions that insert the same ids."""
        if self._inserts_one_by_one(len(batch.events)):
            return await self._claim_one_by_one(batch)
        keys = {
            "event_id": [event.event_id for event in batch.events],
            "payload_hash": batch.digests,
            "started_at": [event.started_at for event in batch.events],
        }
        request_ids = [event.provider_request_id for event in batch.events]
        organization = {"organization_id": self._organization_id}
        if self._session.is_home:
            row = await self._session.one(
                _CLAIM, **organization, **bulk_params(**keys, provider_request_id=request_ids)
            )
            return ClaimedIds(frozenset(row["event_ids"] or ()), frozenset(row["request_ids"] or ()))
        row = await self._session.one(_CLAIM_KEYS, **organization, **bulk_params(**keys))
        event_ids = frozenset(row["event_ids"] or ())
        return ClaimedIds(event_ids, await self._claim_requests(batch, event_ids))

    def _inserts_one_by_one(self, number: int) -> bool:
        return self._session.is_on_citus and number <= _FEW

    async def _claim_one_by_one(self, batch: EventBatch) -> ClaimedIds:
        """Insert the ids in the same order as other transactions, so that they cannot deadlock."""
        organization = {"organization_id": self._organization_id}
        event_ids, request_ids = set(), set()
        for event, digest in sorted(
            zip(batch.events, batch.digests, strict=True), key=lambda it: it[0].event_id
        ):
            claimed = await self._session.first(
                _CLAIM_ONE_KEY,
                **organization,
                event_id=event.event_id,
                payload_hash=digest,
                started_at=event.started_at,
            )
            if claimed is not None:
                event_ids.add(event.event_id)
        requests = [
            (event.provider_request_id, event.started_at)
            for event in batch.events
            if event.event_id in event_ids and event.provider_request_id is not None
        ]
        for request_id, started_at in sorted(requests):
            claimed = await self._session.first(
                _CLAIM_ONE_REQUEST, **organization, provider_request_id=request_id, started_at=started_at
            )
            if claimed is not None:
                request_ids.add(request_id)
        return ClaimedIds(frozenset(event_ids), frozenset(request_ids))

    async def _claim_requests(self, batch: EventBatch, event_ids: frozenset[str]) -> frozenset[str]:
        """Insert the ids of provider requests of these events that do not exist yet, and return them."""
        fresh = [it for it in batch.events if it.event_id in event_ids and it.provider_request_id is not None]
        if not fresh:
            return frozenset()
        row = await self._session.one(
            _CLAIM_REQUESTS,
            organization_id=self._organization_id,
            **bulk_params(
                event_id=[event.event_id for event in fresh],
                started_at=[event.started_at for event in fresh],
                provider_request_id=[event.provider_request_id for event in fresh],
            ),
        )
        return frozenset(row["request_ids"] or ())

    async def digests(self, event_ids: Sequence[str]) -> dict[str, bytes]:
        """Return the recorded digests of these event ids."""
        found = await self._session.rows(
            _DIGESTS, organization_id=self._organization_id, **bulk_params(event_id=event_ids)
        )
        return {row["event_id"]: row["payload_hash"] for row in found}

    async def insert(self, rows: LedgerRows, objects: Mapping[datetime, bytes]) -> None:
        """Insert the rows of events whose ids were claimed, and their usage objects, packed by month.

        A large batch takes several statements, because the driver encodes each without a pause.
        """
        columns: dict[str, list[Any]] = {}
        time_slice = TimeSlice(in_transaction=True)
        for name, column in _COLUMNS.items():
            columns[name] = column(rows)
            await time_slice.pause_if_used()
        event_ids = [it.event_id for it in rows.events]
        if self._inserts_one_by_one(len(rows)):
            await self._insert_one_by_one(rows.ingested_at, objects, {"event_id": event_ids, **columns})
            return
        for start in range(0, len(rows), _ROWS_PER_INSERT):
            part = slice(start, start + _ROWS_PER_INSERT)
            packed = {} if start else objects
            await self._session.first(
                _INSERT,
                organization_id=self._organization_id,
                ingested_at=rows.ingested_at,
                **bulk_params(month=list(packed), objects=list(packed.values())),
                **bulk_params(event_id=event_ids[part]),
                **bulk_params_or_constant(**{name: values[part] for name, values in columns.items()}),
            )

    async def _insert_one_by_one(
        self, ingested_at: datetime, objects: Mapping[datetime, bytes], columns: Mapping[str, Sequence[Any]]
    ) -> None:
        of_each = {"organization_id": self._organization_id, "ingested_at": ingested_at}
        for month, packed in objects.items():
            await self._session.execute(_INSERT_ONE_OBJECT, **of_each, month=month, objects=packed)
        for values in zip(*columns.values(), strict=True):
            row = dict(zip(columns, values, strict=True))
            await self._session.execute(_INSERT_ONE_ROW, **of_each, **row)
