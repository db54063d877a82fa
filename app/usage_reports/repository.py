"""Reads usage reports as records."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa

from app.core.event_loop import in_slices
from app.database.found_rows import FoundRows
from app.database.repository import Repository
from app.database.statements import Query, Row
from app.usage.filter_conditions import filter_values
from app.usage.filters import Dimension, DimensionValue, TimeRange
from app.usage.tables import usage_event as e
from app.usage_events.records import Outcome, TokenUsage, UsageSource
from app.usage_mode.modes import UsageMode
from app.usage_reports.report_parts import OF_LEDGER, OF_ROLLUPS, part_values
from app.usage_reports.report_statement import StatementShape, report_statement, top_statement
from app.usage_reports.reports import Position, ReportQuery, ReportRow
from app.usage_reports.rollup_columns import ORGANIZATION
from app.usage_reports.tables import usage_day
from app.usage_reports.time_buckets import RollupCoverage, rollup_coverage

_ONE: sa.ColumnElement[int] = sa.literal_column("1")
_ENUMS = {
    Dimension.USAGE_MODE: UsageMode,
    Dimension.OUTCOME: Outcome,
    Dimension.USAGE_SOURCE: UsageSource,
}


def _extreme(table: sa.Table, column: sa.Column[Any], *, is_last: bool = False) -> sa.ScalarSelect[Any]:
    return (
        sa.select(column)
        .where(table.c.organization_id == ORGANIZATION)
        .order_by(column.desc() if is_last else column)
        .limit(_ONE)
        .scalar_subquery()
    )


_EXTENT = Query(
    sa.select(
        sa.func.statement_timestamp().label("as_of"),
        sa.func.least(_extreme(usage_day, usage_day.c.starting_at), _extreme(e, e.c.started_at)).label(
            "first"
        ),
        sa.func.greatest(
            _extreme(usage_day, usage_day.c.starting_at, is_last=True),
            _extreme(e, e.c.started_at, is_last=True),
        ).label("last"),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """The database's current time, and the time range in which the organization has rows.

    `open_end` ends a report without an end: now, or after the last event if its client's clock is ahead.
    """

    as_of: datetime
    time_range: TimeRange | None
    open_end: datetime


class ReportRepository(Repository):
    """Reads the reports of one organization."""

    async def extent(self) -> Extent:
        found = await self._session.one(_EXTENT, organization_id=self._organization_id)
        if found["first"] is None:
            return Extent(as_of=found["as_of"], time_range=None, open_end=found["as_of"])
        last: datetime = found["last"]
        return Extent(
            as_of=found["as_of"],
            # The rollup states the start of the last day.
            time_range=(found["first"], last + timedelta(days=1)),
            open_end=max(found["as_of"], last + timedelta(microseconds=1)),
        )

    async def top(self, query: ReportQuery, edges: Sequence[datetime], *, at_most: int) -> tuple[bytes, ...]:
        """Identify the first groups of the whole report."""
        found = await self._session.rows(
            top_statement(_shape(query)), at_most=at_most, **await self._values(query, edges)
        )
        return tuple(row["named"] for row in found)

    async def rows(
        self,
        query: ReportQuery,
        edges: Sequence[datetime],
        *,
        after: Position | None,
        named: tuple[bytes, ...] = (),
        at_most: int,
    ) -> FoundRows[ReportRow]:
        """Return rows in order. The position must be in the first bucket.

        With `after` and without a ranking, the first row is the one at that position, if it still exists.
        """
        found = await self._session.rows(
            report_statement(_shape(query)),
            after=None if after is None else after.digest,
            after_value=0 if after is None else after.value,
            after_other=after is not None and after.is_other,
            named=named,
            at_most=at_most,
            **await self._values(query, edges),
        )
        return FoundRows(found, partial(_row, query=query, edges=edges))

    async def _values(self, query: ReportQuery, edges: Sequence[datetime]) -> dict[str, Any]:
        """Return the parameters of the sources. A statement takes those that it has."""
        values: dict[str, Any] = {"organization_id": self._organization_id, "edges": edges}
        if _shape(query).needs_ledger:
            values |= part_values(edges, OF_LEDGER)
            values |= {"row_from": edges[0], "row_until": edges[-1]}
        else:
            values |= part_values(edges, OF_ROLLUPS)
            values |= _times(await in_slices(rollup_coverage(edges), in_transaction=True))
        return values | filter_values(query.filters)


async def prepare_statements(query: ReportQuery, *, is_first_page: bool) -> None:
    """Compile the statements of a page. Call it before a slot and a transaction are taken."""
    shape = _shape(query)
    if is_first_page and shape.is_cut:
        await top_statement.prepare(shape)
    await report_statement.prepare(shape)


def _shape(query: ReportQuery) -> StatementShape:
    """The shape, which is the same for every number of groups that `top` asks for."""
    ranking = query.ranking
    if ranking is not None and ranking.top is not None:
        ranking = replace(ranking, top=1)
    return StatementShape(query.group_by, query.filters.shape, ranking)


def _times(cover: RollupCoverage) -> dict[str, list[datetime]]:
    named = {"days": cover.days, "hours": cover.hours, "rows": cover.rows}
    return {
        f"{name}_{side}": [time_range[number] for time_range in time_ranges]
        for name, time_ranges in named.items()
        for number, side in enumerate(("from", "until"))
    }


def _value(dimension: Dimension, value: Any) -> DimensionValue | None:
    return None if value is None else _ENUMS[dimension](value)


def _row(row: Row, query: ReportQuery, edges: Sequence[datetime]) -> ReportRow:
    bucket: int = row["bucket"]
    is_cut = query.ranking is not None and query.ranking.top is not None
    dimensions = {it: row[it.value] for it in query.group_by}
    for dimension in _ENUMS.keys() & dimensions:
        dimensions[dimension] = _value(dimension, dimensions[dimension])
    return ReportRow(
        starting_at=edges[bucket - 1],
        ending_at=edges[bucket],
        dimensions=dimensions,
        digest=row["digest"],
        requests=int(row["requests"]),
        tokens=TokenUsage.of_columns(row),
        cost=int(row["cost"]),
        billed=int(row["billed"]),
        unpriced_requests=int(row["unpriced_requests"]),
        is_other=is_cut and row["is_other"],
    )
