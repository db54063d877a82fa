"""Reads ledger rows as records, with keyset pagination."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from app.database.found_rows import FoundRows
from app.database.repository import Repository
from app.database.statements import Query, Row, cached_statements
from app.usage.filter_conditions import filter_conditions, filter_values
from app.usage.filters import FilterShape, MatchingDay, RowCursor, RowFilter, TimeRange
from app.usage.tables import usage_event as t
from app.usage.tables import usage_event_key as k
from app.usage_events.records import LedgerRow, Outcome, TokenUsage, UsageFlag, UsageSource
from app.usage_mode.modes import UsageMode

_INSTANTS = ARRAY(sa.DateTime(timezone=True))
_ORDER = (t.c.started_at, t.c.event_id, t.c.part, t.c.correction)
_CLOCK = Query(sa.select(sa.func.clock_timestamp().label("now")))
_SHOWN = [column for column in t.c if column.name not in {"organization_id", "ingest_xid"}]
_ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)
_at_most = sa.bindparam("at_most", type_=sa.Integer)
_IDS = ("event_id", "provider_request_id")
_UTC_DAY: sa.ColumnElement[datetime] = sa.func.date_trunc(
    sa.literal_column("'day'"), t.c.started_at, sa.literal_column("'UTC'"), type_=t.c.started_at.type
)


@dataclass(frozen=True, slots=True)
class _StatementShape:
    """The part of a request that determines its SQL statement: its filters, and whether it has a cursor."""

    filters: FilterShape
    ids: frozenset[str]
    is_first: bool = True


def _conditions(shape: _StatementShape) -> list[sa.ColumnElement[bool]]:
    found = [t.c.organization_id == _ORGANIZATION, *filter_conditions(t, shape.filters)]
    found += [t.c[name] == sa.bindparam(name, type_=t.c[name].type) for name in sorted(shape.ids)]
    if "event_id" in shape.ids:
        # The key of an event knows when it started, and so the only partition that can have its rows.
        started_at = sa.select(k.c.started_at).where(
            k.c.organization_id == _ORGANIZATION,
            k.c.event_id == sa.bindparam("event_id", type_=k.c.event_id.type),
        )
        found.append(t.c.started_at == started_at.scalar_subquery())
    return found


@cached_statements(at_most=256)
def _page(shape: _StatementShape) -> Query:
    """Build one statement per set of filters, so that each one gets its own query plan.

    Each time range is searched separately, in the order of the primary key, and for no more rows than the page.
    """
    conditions = _conditions(shape)
    if not shape.is_first:
        place = sa.tuple_(*(sa.bindparam(f"last_{it.name}", type_=it.type) for it in _ORDER))
        conditions.append(sa.tuple_(*_ORDER) < place)
    starts, ends = (sa.bindparam(side, type_=_INSTANTS) for side in ("starts", "ends"))
    time_range = sa.func.unnest(starts, ends).table_valued("start", "end", name="time_range").render_derived()
    found = (
        sa.select(*_SHOWN)
        .where(*conditions, t.c.started_at >= time_range.c.start, t.c.started_at < time_range.c.end)
        .order_by(*(column.desc() for column in _ORDER))
        .limit(_at_most)
        .lateral("found")
    )
    return Query(
        sa.select(*found.c)
        .select_from(time_range.join(found, sa.true()))
        .order_by(*(found.c[column.name].desc() for column in _ORDER))
        .limit(_at_most)
    )


@cached_statements(at_most=64)
def _days(shape: _StatementShape) -> Query:
    """Count the matching rows of each UTC day. Without an order and a limit, PostgreSQL uses the index of the filter."""
    return Query(
        sa.select(_UTC_DAY.label("day"), sa.func.count().label("rows"))
        .where(*_conditions(shape))
        .group_by(_UTC_DAY)
        .order_by(_UTC_DAY.desc())
    )


class UsageListingRepository(Repository):
    """Reads the ledger of one organization."""

    async def clock(self) -> datetime:
        """The database's time. Statements that follow show every row that was ingested before it."""
        now: datetime = (await self._session.one(_CLOCK))["now"]
        return now

    async def page(
        self,
        filters: RowFilter,
        *,
        at_most: int,
        after: RowCursor | None,
        time_ranges: Sequence[TimeRange],
    ) -> FoundRows[LedgerRow]:
        """Return one page of the rows within the time ranges, newest first."""
        shape = _shape(filters, is_first=after is None)
        values = self._values(filters) | {"at_most": at_most}
        values |= {"starts": [it[0] for it in time_ranges], "ends": [it[1] for it in time_ranges]}
        if after is not None:
            values |= {f"last_{column.name}": getattr(after, column.name) for column in _ORDER}
        return FoundRows(await self._session.rows(_page(shape), **values), ledger_row)

    async def days(self, filters: RowFilter) -> Sequence[MatchingDay]:
        """Return the UTC days with matching rows, newest first. Only for filters that an index of the ledger has."""
        found = await self._session.rows(_days(_shape(filters)), **self._values(filters))
        return [MatchingDay(row["day"], row["rows"]) for row in found]

    def _values(self, filters: RowFilter) -> dict[str, Any]:
        ids = {name: value for name in _IDS if (value := getattr(filters, name)) is not None}
        return {"organization_id": self._organization_id, **filter_values(filters.usage), **ids}


async def prepare_statements(filters: RowFilter, *, is_first: bool) -> None:
    """Compile the statements of a page. Call it before a slot and a transaction are taken."""
    if filters.uses_ledger_index:
        await _days.prepare(_shape(filters))
    await _page.prepare(_shape(filters, is_first=is_first))


def _shape(filters: RowFilter, *, is_first: bool = True) -> _StatementShape:
    ids = frozenset(name for name in _IDS if getattr(filters, name) is not None)
    return _StatementShape(filters.usage.shape, ids, is_first)


def ledger_row(row: Row) -> LedgerRow:
    """Convert a database row to a record."""
    return LedgerRow(
        started_at=row["started_at"],
        event_id=row["event_id"],
        part=row["part"],
        correction=row["correction"],
        completed_at=row["completed_at"],
        ingested_at=row["ingested_at"],
        mode=UsageMode(row["mode"]),
        credential_id=row["credential_id"],
        key_version=row["key_version"],
        model=row["model"],
        endpoint_id=row["endpoint_id"],
        feature=row["feature"],
        session_id=row["session_id"],
        prompt_id=row["prompt_id"],
        outcome=Outcome(row["outcome"]),
        usage_source=UsageSource(row["usage_source"]),
        service_tier=row["service_tier"],
        speed=row["speed"],
        inference_geo=row["inference_geo"],
        tokens=TokenUsage.of_columns(row),
        cost=row["cost"],
        billed=row["billed"],
        price_version=row["price_version"],
        flags=UsageFlag(row["flags"]),
        provider_request_id=row["provider_request_id"],
        reservation_id=row["reservation_id"],
        corrects=row["corrects"],
        corrected_by=row["corrected_by"],
    )
