"""Reads ledger rows without a cost and their usage objects, and appends the corrections that add a cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, insert

from app.credentials.tables import credential_version as v
from app.database.bulk import bulk_params, found_for_each, organization_row, unnest
from app.database.ledger_lock import LedgerLock
from app.database.repository import Repository
from app.database.statements import Query, Row
from app.pricing.corrections import Correction, UnpricedEvent
from app.usage.correction_repository import CorrectionRepository
from app.usage.tables import usage_event as t
from app.usage.tables import usage_object as o
from app.usage_events.kept_usage import month_of
from app.usage_events.records import LedgerRow, Outcome, TokenUsage, UsageFlag, UsageSource
from app.usage_mode.modes import UsageMode

_ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)
_CLOCK = Query(sa.select(sa.func.clock_timestamp().label("now")))

# A subquery per event of a page. As a condition it would become a join that reads the whole ledger.
_corrected = t.alias("corrected")
_CORRECTED_BY = (
    sa.select(sa.func.max(_corrected.c.correction))
    .where(
        _corrected.c.organization_id == t.c.organization_id,
        _corrected.c.started_at == t.c.started_at,
        _corrected.c.event_id == t.c.event_id,
        _corrected.c.part == t.c.part,
        # Priced, or cancelled because another event corrects it.
        sa.or_(_corrected.c.cost.is_not(None), _corrected.c.correction < sa.literal_column("0")),
    )
    .scalar_subquery()
)
# Like ingestion: by the endpoint of the key version, or of any version if the version is not known.
_compatible = sa.select(v.c.credential_id).where(
    v.c.organization_id == _ORGANIZATION, v.c.base_url.is_not(None)
)
_IS_COMPATIBLE = sa.case(
    (t.c.key_version.is_(None), t.c.credential_id.in_(_compatible).is_(sa.true())),
    else_=sa.exists(
        _compatible.where(v.c.credential_id == t.c.credential_id, v.c.key_version == t.c.key_version)
    ),
)
_UNPRICED = Query(
    sa.select(t, _CORRECTED_BY.label("corrected_by"), _IS_COMPATIBLE.label("is_compatible"))
    .where(
        t.c.organization_id == _ORGANIZATION,
        t.c.cost.is_(None),
        sa.tuple_(t.c.started_at, t.c.event_id, t.c.part)
        > sa.tuple_(
            sa.bindparam("after_instant", type_=t.c.started_at.type),
            sa.bindparam("after_event", type_=sa.Text),
            sa.bindparam("after_part", type_=sa.Integer),
        ),
        t.c.correction == sa.literal_column("0"),
    )
    .order_by(t.c.started_at, t.c.event_id, t.c.part)
    .limit(sa.bindparam("at_most", type_=sa.Integer))
)

_CORRECTION_COLUMNS = {
    name: t.c[name].type
    for name in ("started_at", "event_id", "part", "cost", "billed", "price_version", "flags")
}
_corrections = (
    sa.func.unnest(
        *(sa.bindparam(f"{name}_of_all", type_=ARRAY(kind)) for name, kind in _CORRECTION_COLUMNS.items())
    )
    .table_valued(*(sa.column(name, kind) for name, kind in _CORRECTION_COLUMNS.items()), name="given")
    .render_derived()
)
_of = organization_row()
_event = found_for_each(
    sa.select(*t.columns).where(
        t.c.organization_id == _of.c.organization_id,
        *(t.c[name] == _corrections.c[name] for name in ("started_at", "event_id", "part")),
        t.c.correction == sa.literal_column("0"),
    ),
    "event",
)
_COUNTERS = tuple(column.name for column in t.columns if column.name.endswith(("_tokens", "_requests")))
_earlier = t.alias("earlier")
_NEXT_CORRECTION = (
    sa.select(sa.func.max(_earlier.c.correction) + sa.literal_column("1"))
    .where(
        _earlier.c.organization_id == _event.c.organization_id,
        _earlier.c.started_at == _event.c.started_at,
        _earlier.c.event_id == _event.c.event_id,
        _earlier.c.part == _event.c.part,
    )
    .scalar_subquery()
)
_CORRECTION_VALUES = {
    "correction": _NEXT_CORRECTION,
    "ingested_at": sa.bindparam("now", type_=t.c.ingested_at.type),
    "ingest_xid": sa.bindparam("ingest_xid", type_=t.c.ingest_xid.type),
    **{name: _corrections.c[name] for name in ("cost", "billed", "price_version", "flags")},
    **dict.fromkeys(_COUNTERS, sa.literal_column("0")),
}
# Read in a materialized CTE, as in `app.usage.correction_repository`: Citus adds a wrong condition to an INSERT that reads a table by itself.
_CORRECTED = (
    sa.select(*(_CORRECTION_VALUES.get(column.name, column).label(column.name) for column in _event.c))
    .select_from(_corrections.join(_of, sa.true()).join(_event, sa.true()))
    .order_by(_event.c.started_at, _event.c.event_id, _event.c.part)
    .cte("corrected")
    .prefix_with("MATERIALIZED")
)
_APPENDED = (
    insert(t)
    .from_select([column.name for column in t.columns], sa.select(_CORRECTED))
    .returning(*t.columns)
    .cte("appended")
)
_APPEND = Query(sa.select(_APPENDED))


_batches = unnest(month=o.c.month.type, ingested_at=o.c.ingested_at.type)
_objects = found_for_each(
    sa.select(o.c.objects).where(
        o.c.organization_id == _ORGANIZATION,
        o.c.month == _batches.c.month,
        o.c.ingested_at == _batches.c.ingested_at,
    ),
    "found",
)
_OBJECTS = Query(sa.select(*_objects.c).select_from(_batches.join(_objects, sa.true())))

Position = tuple[datetime, str, int]
BEGINNING: Position = (datetime(1970, 1, 1, tzinfo=UTC), "", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpricedPage:
    """Events without a cost. `last` is the position to continue after; `None` on the last page."""

    events: Sequence[UnpricedEvent]
    last: Position | None


class PriceBackfillRepository(Repository):
    """Unpriced events of one organization."""

    async def lock_ledger(self) -> datetime:
        """Take the ledger lock shared, then wait for other corrections in this organization; returns the time after that."""
        await LedgerLock(self._session, self._organization_id).lock_shared()
        await CorrectionRepository(self._session, self._organization_id).lock()
        row = await self._session.one(_CLOCK)
        now: datetime = row["now"]
        return now

    async def unpriced(self, *, after: Position, at_most: int) -> UnpricedPage:
        """Return the next events by start and id, without those that a correction has priced."""
        found = await self._session.rows(
            _UNPRICED,
            organization_id=self._organization_id,
            after_instant=after[0],
            after_event=after[1],
            after_part=after[2],
            at_most=at_most,
        )
        end = found[-1] if len(found) == at_most else None
        last = None if end is None else (end["started_at"], end["event_id"], end["part"])
        events = [_event_of(row) for row in found if row["corrected_by"] is None]
        return UnpricedPage(events=events, last=last)

    async def usage_objects(self, events: Sequence[UnpricedEvent]) -> Sequence[bytes]:
        """Return the packed usage objects of the batches that these events came in. Earlier releases kept none."""
        batches = {(month_of(event.started_at), event.ingested_at) for event in events}
        found = await self._session.rows(
            _OBJECTS,
            organization_id=self._organization_id,
            **bulk_params(
                month=[month for month, _ in batches], ingested_at=[ingested_at for _, ingested_at in batches]
            ),
        )
        return [row["objects"] for row in found]

    async def append(self, corrections: Sequence[Correction], *, now: datetime) -> Sequence[LedgerRow]:
        """Insert the corrections with the dimensions of their events. Call `lock_ledger` first."""
        arrays = {
            f"{name}_of_all": [getattr(one, name) for one in corrections] for name in _CORRECTION_COLUMNS
        }
        # As plain integers: flags are iterable, so the driver would treat them as arrays.
        arrays["flags_of_all"] = [int(one.flags) for one in corrections]
        found = await self._session.rows(
            _APPEND,
            organization_id=self._organization_id,
            now=now,
            ingest_xid=await self._transaction_id(),
            **arrays,
        )
        return [_row_of(row) for row in found]


def _event_of(row: Row) -> UnpricedEvent:
    return UnpricedEvent(
        started_at=row["started_at"],
        event_id=row["event_id"],
        part=row["part"],
        ingested_at=row["ingested_at"],
        mode=UsageMode(row["mode"]),
        model=row["model"],
        service_tier=row["service_tier"],
        speed=row["speed"],
        inference_geo=row["inference_geo"],
        tokens=TokenUsage.of_columns(row),
        flags=UsageFlag(row["flags"]),
        is_compatible_endpoint=row["is_compatible"],
    )


def _row_of(row: Row) -> LedgerRow:
    same = (
        *("started_at", "event_id", "part", "correction", "completed_at", "ingested_at", "credential_id"),
        *("key_version", "model", "endpoint_id", "feature", "session_id", "prompt_id", "service_tier"),
        *("speed", "inference_geo", "cost", "billed", "price_version", "provider_request_id"),
        *("reservation_id", "corrects", "corrected_by"),
    )
    return LedgerRow(
        mode=UsageMode(row["mode"]),
        outcome=Outcome(row["outcome"]),
        usage_source=UsageSource(row["usage_source"]),
        tokens=TokenUsage.of_columns(row),
        flags=UsageFlag(row["flags"]),
        **{name: row[name] for name in same},
    )
