"""Usage reports: sums by hour and day, and the rows that are not in them yet, in one statement.

One statement sees one snapshot, so the watermark, the sums up to it and the rows from it on belong together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from app.database.engine import Query, Row, Session
from app.usage.records import Outcome, TokenUsage
from app.usage.tables import usage_event as e
from app.usage_mode.modes import UsageMode
from app.usage_reports.reports import Dimension, DimensionValue, Position, ReportQuery, ReportRow
from app.usage_reports.rollup_columns import ORGANIZATION, WATERMARK, at_or_past, counted, digest_of, summed
from app.usage_reports.tables import SUMS, usage_day, usage_day_detail, usage_hour, usage_hour_detail
from app.usage_reports.time_buckets import Cover, Stretch, cover_of

_INSTANTS = ARRAY(sa.DateTime(timezone=True))
_ONE: sa.ColumnElement[int] = sa.literal_column("1")
_edges = sa.bindparam("edges", type_=_INSTANTS)

# Of the narrow sums; the detailed ones have all that is not of single requests.
_NARROW = frozenset({Dimension.USAGE_MODE, Dimension.MODEL})
_OF_REQUESTS = frozenset({Dimension.SESSION_ID, Dimension.PROMPT_ID})

_WORDS = {Dimension.USAGE_MODE: UsageMode, Dimension.OUTCOME: Outcome}


def _end(table: sa.Table, column: sa.Column[Any], *, is_last: bool = False) -> sa.ScalarSelect[Any]:
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
        sa.func.least(_end(usage_day, usage_day.c.starting_at), _end(e, e.c.started_at)).label("first"),
        sa.func.greatest(
            _end(usage_day, usage_day.c.starting_at, is_last=True), _end(e, e.c.started_at, is_last=True)
        ).label("last"),
    )
)


@dataclass(frozen=True, slots=True)
class _Shape:
    """What makes two reports the same statement with other values."""

    group_by: tuple[Dimension, ...]
    filtered: frozenset[Dimension]

    @property
    def asked(self) -> frozenset[Dimension]:
        return self.filtered.union(self.group_by)


def _column(table: sa.FromClause, dimension: Dimension) -> sa.ColumnElement[Any]:
    return table.c["mode" if dimension is Dimension.USAGE_MODE else dimension.value]


def _values(dimension: Dimension) -> sa.BindParameter[Any]:
    return sa.bindparam(f"only_{dimension}", type_=ARRAY(_column(e, dimension).type))


def _picked(
    shape: _Shape, table: sa.Table, instant: sa.Column[Any], sums: Sequence[sa.ColumnElement[Any]]
) -> sa.Select[Any]:
    """A table's rows of the organization, as bucket, dimensions and sums."""
    return sa.select(
        sa.func.width_bucket(instant, _edges).label("bucket"),
        *(_column(table, dimension).label(dimension) for dimension in shape.group_by),
        *sums,
    ).where(
        table.c.organization_id == ORGANIZATION,
        *(_column(table, it) == sa.func.any(_values(it)) for it in sorted(shape.filtered)),
    )


def _in_stretches(picked: sa.Select[Any], instant: sa.Column[Any], name: str) -> sa.Select[Any]:
    """Rows of some stretches of time. OFFSET keeps each one a look-up of its own: joined, all rows are compared with all."""
    starts, ends = (sa.bindparam(f"{name}_{side}", type_=_INSTANTS) for side in ("from", "until"))
    stretch = sa.func.unnest(starts, ends).table_valued("start", "end", name=name).render_derived()
    found = (
        picked.where(instant >= stretch.c.start, instant < stretch.c.end)
        .offset(sa.literal_column("0"))
        .lateral(f"of_{name}")
    )
    return sa.select(*found.c).select_from(stretch.join(found, sa.true()))


def _sources(shape: _Shape) -> list[sa.Select[Any]]:
    rows = _picked(shape, e, e.c.started_at, counted())
    if shape.asked & _OF_REQUESTS:
        start, end = (sa.bindparam(f"row_{side}", type_=e.c.started_at.type) for side in ("from", "until"))
        return [rows.where(e.c.started_at >= start, e.c.started_at < end)]
    hour, day = (usage_hour, usage_day) if shape.asked <= _NARROW else (usage_hour_detail, usage_day_detail)
    bucket = sa.func.width_bucket(e.c.started_at, _edges)
    return [
        *(
            _in_stretches(
                _picked(shape, table, table.c.starting_at, [table.c[s] for s in SUMS]),
                table.c.starting_at,
                name,
            )
            for table, name in ((day, "days"), (hour, "hours"))
        ),
        _in_stretches(rows.where(e.c.ingest_xid < WATERMARK), e.c.started_at, "rows"),
        # By bucket, not by time: the index to take is the one by transaction.
        rows.where(at_or_past(WATERMARK), bucket >= _ONE, bucket < sa.func.cardinality(_edges)),
    ]


@lru_cache(maxsize=512)
def _statement(shape: _Shape) -> Query:
    """Compiled once for each combination of groups and filters that is asked for."""
    found = sa.union_all(*_sources(shape)).subquery("found")
    dimensions = [found.c[dimension] for dimension in shape.group_by]
    sums = (
        sa.select(found.c.bucket, *dimensions, *summed(found))
        .group_by(found.c.bucket, *dimensions)
        .cte("sums")
    )
    # Code points, in whatever locale the database is.
    order = [
        (sa.collate(column, "C") if isinstance(column.type, sa.Text) else column).nulls_first()
        for column in (sums.c[dimension] for dimension in shape.group_by)
    ]
    ranked = sa.select(
        *sums.c, sa.func.row_number().over(order_by=[sums.c.bucket, *order]).label("place")
    ).cte("ranked")
    digest = digest_of([ranked.c[dimension] for dimension in shape.group_by])
    last = sa.select(ranked.c.place).where(
        ranked.c.bucket == _ONE, digest == sa.bindparam("after", type_=sa.LargeBinary)
    )
    return Query(
        sa.select(ranked, digest.label("digest"))
        .where(ranked.c.place >= sa.func.coalesce(last.scalar_subquery(), sa.literal_column("0")))
        .order_by(ranked.c.place)
        .limit(sa.bindparam("at_most", type_=sa.Integer))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """What time it is by the database's clock, and the stretch in which the organization has rows."""

    as_of: datetime
    stretch: Stretch | None


class ReportRepository:
    """One organization's reports."""

    def __init__(self, session: Session, organization_id: str) -> None:
        self._session = session
        self._organization_id = organization_id

    async def extent(self) -> Extent:
        found = await self._session.first(_EXTENT, organization_id=self._organization_id)
        assert found is not None
        if found["first"] is None:
            return Extent(as_of=found["as_of"], stretch=None)
        # The last day of the sums is given by its start.
        return Extent(as_of=found["as_of"], stretch=(found["first"], found["last"] + timedelta(days=1)))

    async def rows(
        self, query: ReportQuery, edges: Sequence[datetime], *, after: Position | None, at_most: int
    ) -> Sequence[ReportRow]:
        """In order, from the row of `after` on, which comes first if it is there; that one is in the first bucket."""
        shape = _Shape(group_by=query.group_by, filtered=frozenset(query.filters))
        if shape.asked & _OF_REQUESTS:
            times: dict[str, Any] = {"row_from": edges[0], "row_until": edges[-1]}
        else:
            times = _times(cover_of(edges))
        found = await self._session.rows(
            _statement(shape),
            organization_id=self._organization_id,
            edges=edges,
            after=None if after is None else after.digest,
            at_most=at_most,
            **times,
            **{f"only_{dimension}": list(values) for dimension, values in query.filters.items()},
        )
        return [_row(row, query.group_by, edges) for row in found]


def _times(cover: Cover) -> dict[str, list[datetime]]:
    named = {"days": cover.days, "hours": cover.hours, "rows": cover.rows}
    return {
        f"{name}_{side}": [stretch[number] for stretch in stretches]
        for name, stretches in named.items()
        for number, side in enumerate(("from", "until"))
    }


def _value(dimension: Dimension, value: Any) -> DimensionValue | None:
    return _WORDS[dimension](value) if dimension in _WORDS else value


def _row(row: Row, group_by: Sequence[Dimension], edges: Sequence[datetime]) -> ReportRow:
    bucket: int = row["bucket"]
    return ReportRow(
        starting_at=edges[bucket - 1],
        ending_at=edges[bucket],
        dimensions={it: _value(it, row[it]) for it in group_by},
        digest=row["digest"],
        requests=int(row["requests"]),
        tokens=TokenUsage(
            uncached_input=int(row["uncached_input_tokens"]),
            cache_write_5m=int(row["cache_write_5m_tokens"]),
            cache_write_1h=int(row["cache_write_1h_tokens"]),
            cache_read=int(row["cache_read_tokens"]),
            output=int(row["output_tokens"]),
            web_search_requests=int(row["web_search_requests"]),
        ),
        cost=int(row["cost"]),
        billed=int(row["billed"]),
        unpriced_requests=int(row["unpriced_requests"]),
    )
