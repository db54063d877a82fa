"""Totals of the usage ledger by month: daily rollups plus unaggregated rows, in one SQL statement.

A month starts and ends with a UTC day, so daily rollups cover it. One SQL statement reads one snapshot, so the
watermark, the rollups and the rows are consistent at any isolation level.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from app.billing.statements import MAX_MODELS, OTHER_MODELS
from app.billing.tables import statement_line as line
from app.database.statements import Query
from app.usage.tables import usage_event as e
from app.usage_reports.rollup_columns import (
    ORGANIZATION,
    WATERMARK,
    measure_totals,
    row_measures,
    unaggregated_from,
)
from app.usage_reports.tables import usage_day as d

_INSTANTS = postgresql.ARRAY(sa.DateTime(timezone=True))
_starting_at = sa.bindparam("starting_at", type_=_INSTANTS)
_months = (
    sa.func.unnest(_starting_at, sa.bindparam("ending_at", type_=_INSTANTS))
    .table_valued(
        sa.column("starting_at", sa.DateTime(timezone=True)),
        sa.column("ending_at", sa.DateTime(timezone=True)),
    )
    .render_derived(name="months")
)


def _rolled_up() -> sa.Select[Any]:
    """The rollups, grouped month by month, so that the planner expects few groups and aggregates without sorting."""
    totals = (
        sa.select(d.c.mode, d.c.model, *measure_totals(d))
        .where(
            d.c.organization_id == ORGANIZATION,
            d.c.starting_at >= _months.c.starting_at,
            d.c.starting_at < _months.c.ending_at,
        )
        .group_by(d.c.mode, d.c.model)
        .lateral("days")
    )
    return sa.select(_months.c.starting_at.label("month"), *totals.c).select_from(
        _months.join(totals, sa.true())
    )


def _unaggregated() -> sa.Select[Any]:
    """The unaggregated rows.

    Filtered by month, not by a range of time, so that the planner uses the index by transaction. Aggregated here
    already, because there are few groups, whatever the number of rows.
    """
    month = sa.func.date_trunc(sa.literal_column("'month'"), e.c.started_at, sa.literal_column("'UTC'"))
    rows = (
        sa.select(month.label("month"), e.c.mode, e.c.model, *row_measures())
        .where(
            e.c.organization_id == ORGANIZATION, unaggregated_from(WATERMARK), month == sa.any_(_starting_at)
        )
        .subquery("unaggregated")
    )
    keys = (rows.c.month, rows.c.mode, rows.c.model)
    return sa.select(*keys, *measure_totals(rows)).group_by(*keys)


_combined = sa.union_all(_rolled_up(), _unaggregated()).subquery("combined")
_keys = (_combined.c.month, _combined.c.mode, _combined.c.model)
_by_model = sa.select(*_keys, *measure_totals(_combined)).group_by(*_keys).subquery("by_model")


def _models_of_closed_lines() -> sa.Subquery:
    """The models of a month that closed statements have lines of: in the month's statement, or in later adjustments."""
    month = sa.cast(sa.func.coalesce(line.c.adjusts_month, line.c.month), sa.DateTime)
    return (
        sa.select(
            sa.func.timezone(sa.literal_column("'UTC'"), month).label("month"), line.c.mode, line.c.model
        )
        .where(line.c.organization_id == ORGANIZATION, line.c.model.is_not(None))
        .distinct()
        .subquery("closed_lines")
    )


def _with_other_models() -> sa.Select[Any]:
    """Combine all models of a month and mode but the first ones: those that cost most, and then those of most requests.

    A model that a closed statement has a line of keeps its line, and then others get none from it. Otherwise a model could
    move between two lines that are rounded separately, and the roundings would be billed.
    """
    totals, closed = _by_model.c, _models_of_closed_lines()
    is_closed = closed.c.model.is_not(None)
    order = (
        *(is_closed.desc(), totals.billed.desc(), totals.cost.desc(), totals.requests.desc()),
        sa.collate(totals.model, "C"),
    )
    ranked = (
        sa.select(
            *totals,
            is_closed.label("is_closed"),
            sa.func.row_number()
            .over(partition_by=[totals.month, totals.mode], order_by=order)
            .label("place"),
        )
        .select_from(
            _by_model.outerjoin(
                closed,
                sa.and_(
                    closed.c.month == totals.month,
                    closed.c.mode == totals.mode,
                    closed.c.model == totals.model,
                ),
            )
        )
        .subquery("ranked")
    )
    most: sa.ColumnElement[int] = sa.literal_column(str(MAX_MODELS))
    other: sa.ColumnElement[str] = sa.literal_column(f"'{OTHER_MODELS}'", type_=sa.Text)
    named = sa.select(
        *(column for column in ranked.c if column.name not in {"model", "is_closed", "place"}),
        sa.case((sa.or_(ranked.c.is_closed, ranked.c.place <= most), ranked.c.model), else_=other).label(
            "model"
        ),
    ).subquery("named")
    keys = (named.c.month, named.c.mode, named.c.model)
    return sa.select(*keys, *measure_totals(named)).group_by(*keys)


LEDGER = Query(_with_other_models())

# The months whose totals are still known: the partition of their rows exists, or their rollups outlived it. Rows are
# retained at least twice as long as events are accepted, so they are rolled up long before they are deleted. OFFSET 0, because
# under row-level security an index search takes the bounds only as values, and not as an expression.
RETAINED_MONTHS = Query(
    sa.text("""
        SELECT month FROM (
            SELECT month, CAST(month AS timestamp) AT TIME ZONE 'UTC' AS starts_at,
                (month + interval '1 month') AT TIME ZONE 'UTC' AS ends_at
            FROM unnest(CAST(:months AS date[])) AS month OFFSET 0) AS m
        WHERE to_regclass('usage_event_y' || to_char(month, 'YYYY"m"MM')) IS NOT NULL
        OR EXISTS (SELECT FROM usage_day WHERE usage_day.organization_id = :organization_id
            AND starting_at >= m.starts_at AND starting_at < m.ends_at)
    """)
)


def _first(column: sa.Column[Any]) -> sa.ScalarSelect[Any]:
    return (
        sa.select(sa.func.min(column)).where(column.table.c.organization_id == ORGANIZATION).scalar_subquery()
    )


# The earliest known usage, even if its rows are deleted.
FIRST_USAGE = sa.func.least(_first(d.c.starting_at), _first(e.c.started_at))
