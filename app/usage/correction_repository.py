"""Finds the events that other events correct, and cancels their ledger rows.

A row is cancelled by one with the same dimensions and flags and with negative tokens and amounts. So every total, under
whatever grouping, contains only the correcting event.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

import sqlalchemy as sa

from app.database.bulk import bulk_params, found_for_each, organization_row, unnest
from app.database.repository import Repository
from app.database.statements import Query
from app.usage.corrections import CorrectedEvent
from app.usage.listing_repository import ledger_row
from app.usage.tables import usage_event as t
from app.usage.tables import usage_event_key as k
from app.usage_events.records import LedgerRow
from app.usage_mode.modes import UsageMode

_ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)
_ZERO: sa.ColumnElement[int] = sa.literal_column("0")
_ONE: sa.ColumnElement[int] = sa.literal_column("1")
# One transaction at a time changes existing events of an organization: by a correcting event, or by a price that became
# known. The key is that of earlier releases, which lock only for prices.
_LOCK = Query(
    sa.select(
        sa.func.pg_advisory_xact_lock(
            sa.func.hashtext(sa.literal_column("'byok.price_backfill'")), sa.func.hashtext(_ORGANIZATION)
        )
    )
)
_cancelling = t.alias("cancelling")
_IS_CORRECTED = sa.exists(
    sa.select(_ONE).where(
        _cancelling.c.organization_id == t.c.organization_id,
        _cancelling.c.started_at == t.c.started_at,
        _cancelling.c.event_id == t.c.event_id,
        _cancelling.c.part == _ZERO,
        _cancelling.c.correction == -_ONE,
    )
)
_ids = unnest(event_id=sa.Text)
_key = found_for_each(
    sa.select(k.c.organization_id, k.c.event_id, k.c.started_at).where(
        k.c.organization_id == _ORGANIZATION, k.c.event_id == _ids.c.event_id
    ),
    "key",
)
_event = found_for_each(
    sa.select(
        t.c.event_id,
        t.c.started_at,
        t.c.ingested_at,
        t.c.mode,
        t.c.reservation_id,
        t.c.corrects,
        _IS_CORRECTED.label("is_corrected"),
    ).where(
        t.c.organization_id == _key.c.organization_id,
        t.c.started_at == _key.c.started_at,
        t.c.event_id == _key.c.event_id,
        t.c.part == _ZERO,
        t.c.correction == _ZERO,
    ),
    "event",
)
_FIND = Query(sa.select(*_event.c).select_from(_ids.join(_key, sa.true()).join(_event, sa.true())))

_COUNTERS = tuple(column.name for column in t.columns if column.name.endswith(("_tokens", "_requests")))
_given = unnest(event_id=sa.Text, started_at=t.c.started_at.type, corrected_by=sa.Text)
_of = organization_row()
_row = found_for_each(
    sa.select(*t.columns).where(
        t.c.organization_id == _of.c.organization_id,
        t.c.started_at == _given.c.started_at,
        t.c.event_id == _given.c.event_id,
        t.c.correction >= _ZERO,
        # Implied by the others. It costs less as a condition of the primary key than as one of any other index's rows.
        sa.tuple_(t.c.event_id, t.c.part) >= sa.tuple_(_given.c.event_id, _ZERO),
    ),
    "row",
)
_VALUES = {
    "correction": -_ONE - _row.c.correction,
    "ingested_at": sa.bindparam("ingested_at", type_=t.c.ingested_at.type),
    "ingest_xid": sa.bindparam("ingest_xid", type_=t.c.ingest_xid.type),
    "corrected_by": _given.c.corrected_by,
    **{name: -_row.c[name] for name in (*_COUNTERS, "cost", "billed")},
}
# Read in a materialized CTE, because Citus adds a condition on the distribution column to an INSERT that reads a table by itself, and a
# table of a distributed schema has none.
_CORRECTED = (
    sa.select(*(_VALUES.get(column.name, column).label(column.name) for column in _row.c))
    .select_from(_given.join(_of, sa.true()).join(_row, sa.true()))
    .order_by(_row.c.started_at, _row.c.event_id, _row.c.part, _row.c.correction)
    .cte("corrected")
    .prefix_with("MATERIALIZED")
)
_CANCELLED = (
    sa.insert(t)
    .from_select([column.name for column in t.columns], sa.select(_CORRECTED))
    .returning(*t.columns)
    .cte("cancelled")
)
_CANCEL = Query(sa.select(_CANCELLED))


class CorrectionRepository(Repository):
    """Corrections of one organization's events. Every method but `lock` needs the lock."""

    async def lock(self) -> None:
        """Wait for other transactions that change existing events. Take the ledger lock first."""
        await self._session.first(_LOCK, organization_id=self._organization_id)

    async def find(self, event_ids: Sequence[str]) -> Mapping[str, CorrectedEvent]:
        """Return the recorded events among these ids, also those that this transaction has recorded."""
        found = await self._session.rows(
            _FIND, organization_id=self._organization_id, **bulk_params(event_id=event_ids)
        )
        return {
            row["event_id"]: CorrectedEvent(
                event_id=row["event_id"],
                started_at=row["started_at"],
                ingested_at=row["ingested_at"],
                mode=UsageMode(row["mode"]),
                reservation_id=row["reservation_id"],
                is_correction=row["corrects"] is not None,
                is_corrected=row["is_corrected"],
            )
            for row in found
        }

    async def cancel(
        self, corrected: Mapping[str, CorrectedEvent], ingested_at: datetime
    ) -> Sequence[LedgerRow]:
        """Cancel the rows of the corrected event of each correcting event; returns the cancelling rows."""
        found = await self._session.rows(
            _CANCEL,
            organization_id=self._organization_id,
            ingested_at=ingested_at,
            ingest_xid=await self._transaction_id(),
            **bulk_params(
                event_id=[it.event_id for it in corrected.values()],
                started_at=[it.started_at for it in corrected.values()],
                corrected_by=list(corrected),
            ),
        )
        return [ledger_row(row) for row in found]
