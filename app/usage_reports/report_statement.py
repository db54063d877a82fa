"""Builds the SQL of reports: from the rollups and the unaggregated rows, in one statement.

One statement reads one snapshot, so the watermark, the rollups before it and the rows after it are consistent. It computes
a page part by part (`app.usage_reports.report_parts`), and PostgreSQL computes no part after those that fill the page.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from app.database.statements import Query, cached_statements
from app.usage.filter_conditions import dimension_column, filter_conditions
from app.usage.filters import FLAGS, PER_REQUEST, Dimension, FilterShape
from app.usage.tables import usage_event as e
from app.usage_reports.report_parts import PART_BUCKETS, PART_TIMES, PARTS
from app.usage_reports.reports import PREFIX_BYTES, Measure, Ranking
from app.usage_reports.rollup_columns import (
    ORGANIZATION,
    WATERMARK,
    WIDE_WATERMARK,
    dimension_digest,
    is_used,
    measure_totals,
    row_measures,
    unaggregated_from,
)
from app.usage_reports.tables import (
    MEASURES,
    usage_day,
    usage_day_detail,
    usage_day_wide,
    usage_hour,
    usage_hour_detail,
    usage_hour_wide,
)

_INSTANTS = ARRAY(sa.DateTime(timezone=True))
_ZERO: sa.ColumnElement[int] = sa.literal_column("0")
_ONE: sa.ColumnElement[int] = sa.literal_column("1")
_edges = sa.bindparam("edges", type_=_INSTANTS)
_at_most = sa.bindparam("at_most", type_=sa.Integer)
_after = sa.bindparam("after", type_=sa.LargeBinary)
_ROW_TIMES = (
    sa.bindparam("row_from", type_=e.c.started_at.type),
    sa.bindparam("row_until", type_=e.c.started_at.type),
)

_Bounds = tuple[sa.ColumnElement[Any], sa.ColumnElement[Any]]  # the second one is exclusive
_Order = Callable[[sa.FromClause], list[sa.ColumnElement[Any]]]

_MEASURE_COLUMNS = {
    Measure.CACHE_READ_INPUT_TOKENS: "cache_read_tokens",
    Measure.ESTIMATED_COST: "cost",
    Measure.BILLED_COST: "billed",
}


class Rollups(NamedTuple):
    """The rollups of two widths that have all of these dimensions, and where their unaggregated rows begin."""

    dimensions: frozenset[Dimension]
    day: sa.Table
    hour: sa.Table
    watermark: sa.ColumnElement[int]


_IDENTITY = frozenset({Dimension.USAGE_MODE, Dimension.MODEL})
_DETAIL = _IDENTITY | {
    Dimension.ENDPOINT_ID,
    Dimension.FEATURE,
    Dimension.CREDENTIAL_ID,
    Dimension.KEY_VERSION,
    Dimension.OUTCOME,
}
# From narrow to wide.
_ROLLUPS = (
    Rollups(_IDENTITY, usage_day, usage_hour, WATERMARK),
    Rollups(_DETAIL, usage_day_detail, usage_hour_detail, WATERMARK),
    Rollups(frozenset(Dimension), usage_day_wide, usage_hour_wide, WIDE_WATERMARK),
)


def narrowest_rollups(dimensions: frozenset[Dimension]) -> Rollups:
    """Return the rollups with the fewest rows that have these dimensions."""
    return next(it for it in _ROLLUPS if dimensions <= it.dimensions)


@dataclass(frozen=True, slots=True)
class StatementShape:
    """The part of a query that determines its SQL statement."""

    group_by: tuple[Dimension, ...]
    filters: FilterShape
    ranking: Ranking | None = None

    @property
    def needs_ledger(self) -> bool:
        """Whether the report reads all rows, because no rollup has what it groups or filters by."""
        return self.filters.needs_ledger or not PER_REQUEST.isdisjoint(self.group_by)

    @property
    def is_cut(self) -> bool:
        return self.ranking is not None and self.ranking.top is not None


@cached_statements(at_most=512)
def report_statement(shape: StatementShape) -> Query:
    """Build the statement of a page once per combination of groups, filters and order.

    Parameters: `after` is the digest of the last row of the previous page, or null; with a ranking, `after_value` and
    `after_other` are its measure and whether it is the rest, and `named` has the groups that are not.
    """
    totals = _totals(shape, _sources(shape, in_part=True))
    if shape.is_cut:
        totals = _with_rest(shape, totals)
    dimensions = [totals.c[dimension] for dimension in shape.group_by]
    rest = [totals.c.is_other] if shape.is_cut else []
    ranked = sa.select(
        *totals.c,
        dimension_digest([*dimensions, *rest]).label("digest"),
        sa.func.row_number().over(order_by=[totals.c.bucket, *rest, *_sorted(dimensions)]).label("place"),
    ).cte("ranked", nesting=True)
    last = sa.func.coalesce(
        sa.select(ranked.c.place).where(ranked.c.bucket == _ONE, ranked.c.digest == _after).scalar_subquery(),
        _ZERO,
    )
    if shape.ranking is None:
        return Query(_part_by_part(ranked, ranked.c.place >= last, _by_place))
    return Query(
        _part_by_part(ranked, _follows(shape.ranking, ranked, last), partial(_by_measure, shape.ranking))
    )


def _part_by_part(ranked: sa.CTE, condition: sa.ColumnElement[bool], order_of: _Order) -> sa.Select[Any]:
    """Select a page from the first parts that fill it.

    The parts come in their order, so PostgreSQL sorts each of them by itself, and stops when it has enough rows.
    """
    rows = sa.select(ranked).where(condition).order_by(*order_of(ranked)).limit(_at_most).lateral("of_part")
    return (
        sa.select(*rows.c)
        .select_from(PARTS.join(rows, sa.true()))
        .order_by(PARTS.c.number, *order_of(rows))
        .limit(_at_most)
    )


def _by_place(rows: sa.FromClause) -> list[sa.ColumnElement[Any]]:
    return [rows.c.place]


def _by_measure(ranking: Ranking, rows: sa.FromClause) -> list[sa.ColumnElement[Any]]:
    value = rows.c[_column_of(ranking)]
    rest = [rows.c.is_other] if ranking.top is not None else []
    return [rows.c.bucket, *rest, value.desc() if ranking.is_descending else value, rows.c.place]


def _follows(ranking: Ranking, ranked: sa.CTE, last: sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
    """Whether a row is after a measure and, among equal measures, after a place: other rows may have moved meanwhile."""
    value = ranked.c[_column_of(ranking)]
    after_value = sa.bindparam("after_value", type_=sa.Numeric)
    follows = value < after_value if ranking.is_descending else value > after_value
    follows = sa.or_(follows, sa.and_(value == after_value, ranked.c.place > last))
    if ranking.top is not None:
        is_after_rest = sa.bindparam("after_other", type_=sa.Boolean)
        follows = sa.and_(sa.not_(is_after_rest), sa.or_(ranked.c.is_other, follows))
    return sa.or_(_after.is_(None), ranked.c.bucket > _ONE, follows)


@cached_statements(at_most=128)
def top_statement(shape: StatementShape) -> Query:
    """Select the first groups of the whole report, by the beginning of their digests."""
    assert shape.ranking is not None
    totals = _totals(shape, _sources(shape, in_part=False))
    dimensions = [totals.c[dimension] for dimension in shape.group_by]
    total = sa.func.sum(totals.c[_column_of(shape.ranking)])
    return Query(
        sa.select(_prefix(dimensions).label("named"))
        .select_from(totals)
        .group_by(*dimensions)
        .order_by(total.desc() if shape.ranking.is_descending else total, *_sorted(dimensions))
        .limit(_at_most)
    )


def _column_of(ranking: Ranking) -> str:
    return _MEASURE_COLUMNS.get(ranking.measure, ranking.measure.value)


def _totals(shape: StatementShape, sources: Sequence[sa.Select[Any]]) -> sa.CTE:
    found = sa.union_all(*sources).subquery("found")
    dimensions = [found.c[dimension] for dimension in shape.group_by]
    totals = (
        sa.select(found.c.bucket, *dimensions, *measure_totals(found))
        .group_by(found.c.bucket, *dimensions)
        .cte("all_totals", nesting=True)
    )
    return sa.select(*totals.c).where(is_used(totals)).cte("totals", nesting=True)


def _with_rest(shape: StatementShape, totals: sa.CTE) -> sa.CTE:
    """Combine all groups but the named ones, in each bucket."""
    dimensions = [totals.c[dimension] for dimension in shape.group_by]
    is_other = sa.not_(_prefix(dimensions) == sa.any_(sa.bindparam("named", type_=ARRAY(sa.LargeBinary))))
    found = sa.select(
        totals.c.bucket,
        is_other.label("is_other"),
        *(sa.case((is_other, sa.null()), else_=it).label(it.name) for it in dimensions),
        *(totals.c[name] for name in MEASURES),
    ).subquery("split")
    keys = [found.c.bucket, found.c.is_other, *(found.c[dimension] for dimension in shape.group_by)]
    return sa.select(*keys, *measure_totals(found)).group_by(*keys).cte("cut", nesting=True)


def _prefix(dimensions: Sequence[sa.ColumnElement[Any]]) -> sa.ColumnElement[bytes]:
    length: sa.ColumnElement[int] = sa.literal_column(str(PREFIX_BYTES))
    return sa.func.substr(dimension_digest(dimensions), _ONE, length, type_=sa.LargeBinary)


def _sorted(dimensions: Sequence[sa.ColumnElement[Any]]) -> list[sa.ColumnElement[Any]]:
    """Sort by code points, whatever the locale of the database."""
    return [(sa.collate(it, "C") if isinstance(it.type, sa.Text) else it).nulls_first() for it in dimensions]


def _sources(shape: StatementShape, *, in_part: bool) -> list[sa.Select[Any]]:
    """Select what all groups are made of, of one part or of the whole report."""

    def between(
        value: sa.ColumnElement[Any], of_part: _Bounds, whole: _Bounds | None
    ) -> list[sa.ColumnElement[bool]]:
        bounds = ([of_part] if in_part else []) + ([] if whole is None else [whole])
        return [it for start, end in bounds for it in (value >= start, value < end)]

    rows = _grouped_rows(shape, e, e.c.started_at, row_measures())
    if shape.needs_ledger:
        # The whole range too, because PostgreSQL chooses partitions before it knows the parts.
        return [rows.where(*between(e.c.started_at, PART_TIMES, _ROW_TIMES))]
    rollups = narrowest_rollups(shape.filters.dimensions.union(shape.group_by))
    by_time = [
        (
            _grouped_rows(shape, table, table.c.starting_at, [table.c[s] for s in MEASURES]),
            table.c.starting_at,
            name,
        )
        for table, name in ((rollups.day, "days"), (rollups.hour, "hours"))
    ]
    by_time.append((rows.where(e.c.ingest_xid < rollups.watermark), e.c.started_at, "rows"))
    bucket = sa.func.width_bucket(e.c.started_at, _edges)
    return [
        *(
            _in_time_ranges(picked.where(*between(instant, PART_TIMES, None)), instant, name)
            for picked, instant, name in by_time
        ),
        # Filter by bucket instead of time, so that the planner uses the index on the transaction.
        rows.where(
            unaggregated_from(rollups.watermark),
            *between(bucket, PART_BUCKETS, (_ONE, sa.func.cardinality(_edges))),
        ),
    ]


def _grouped_rows(
    shape: StatementShape,
    table: sa.Table,
    instant: sa.Column[Any],
    measures: Sequence[sa.ColumnElement[Any]],
) -> sa.Select[Any]:
    """Select bucket, dimensions and measures from the organization's rows of a table.

    Grouped by flag, a row appears once for each of its flags.
    """
    named = (
        sa.values(sa.column("bit", sa.Integer), sa.column("name", sa.Text), name="named", literal_binds=True)
        .data([(int(flag), name) for name, flag in FLAGS.items()])
        .alias("named")
    )
    found = sa.select(
        sa.func.width_bucket(instant, _edges).label("bucket"),
        *(
            (named.c.name if it is Dimension.FLAG else dimension_column(table, it)).label(it)
            for it in shape.group_by
        ),
        *measures,
    ).where(table.c.organization_id == ORGANIZATION, *filter_conditions(table, shape.filters))
    if Dimension.FLAG not in shape.group_by:
        return found
    return found.select_from(table.outerjoin(named, table.c.flags.op("&")(named.c.bit) != _ZERO))


def _in_time_ranges(picked: sa.Select[Any], instant: sa.Column[Any], name: str) -> sa.Select[Any]:
    """Restrict a select to several time ranges.

    OFFSET 0 makes PostgreSQL search each range separately. As a join, it would compare all rows with all ranges.
    """
    starts, ends = (sa.bindparam(f"{name}_{side}", type_=_INSTANTS) for side in ("from", "until"))
    time_range = sa.func.unnest(starts, ends).table_valued("start", "end", name=name).render_derived()
    found = (
        picked.where(instant >= time_range.c.start, instant < time_range.c.end)
        .offset(sa.literal_column("0"))
        .lateral(f"of_{name}")
    )
    return sa.select(*found.c).select_from(time_range.join(found, sa.true()))
