"""What the ledger says of months: daily sums, and the rows that are not in them yet, in one statement.

Months are UTC, so whole days make them up. One statement sees one snapshot, so watermark, sums and rows
belong together, also where the transaction around it took none.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from app.database.engine import Query
from app.usage.tables import usage_event as e
from app.usage_reports.rollup_columns import ORGANIZATION, WATERMARK, at_or_past, counted, summed
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


def _days() -> sa.Select[Any]:
    """Month by month: so the planner sees how few groups there are, and sums without sorting."""
    sums = (
        sa.select(d.c.mode, d.c.model, *summed(d))
        .where(
            d.c.organization_id == ORGANIZATION,
            d.c.starting_at >= _months.c.starting_at,
            d.c.starting_at < _months.c.ending_at,
        )
        .group_by(d.c.mode, d.c.model)
        .lateral("days")
    )
    return sa.select(_months.c.starting_at.label("month"), *sums.c).select_from(_months.join(sums, sa.true()))


def _tail() -> sa.Select[Any]:
    """By month, not by time: the index to take is the one by transaction. Summed here: few groups, however many rows."""
    month = sa.func.date_trunc(sa.literal_column("'month'"), e.c.started_at, sa.literal_column("'UTC'"))
    rows = (
        sa.select(month.label("month"), e.c.mode, e.c.model, *counted())
        .where(e.c.organization_id == ORGANIZATION, at_or_past(WATERMARK), month == sa.any_(_starting_at))
        .subquery("tail")
    )
    keys = (rows.c.month, rows.c.mode, rows.c.model)
    return sa.select(*keys, *summed(rows)).group_by(*keys)


_found = sa.union_all(_days(), _tail()).subquery("found")
_keys = (_found.c.month, _found.c.mode, _found.c.model)
LEDGER = Query(sa.select(*_keys, *summed(_found)).group_by(*_keys))

# Of these months something is known: their rows are there, or sums that outlived them. Rows are kept for twice as
# long as events reach back, so all are in the sums long before they go.
KEPT = Query(
    sa.text("""
        SELECT month FROM unnest(CAST(:months AS date[])) AS month
        WHERE to_regclass('public.usage_event_y' || to_char(month, 'YYYY"m"MM')) IS NOT NULL
        OR EXISTS (SELECT FROM usage_day WHERE usage_day.organization_id = :organization_id
            AND starting_at >= CAST(month AS timestamp) AT TIME ZONE 'UTC'
            AND starting_at < (month + interval '1 month') AT TIME ZONE 'UTC')
    """)
)


def _first(column: sa.Column[Any]) -> sa.ScalarSelect[Any]:
    return (
        sa.select(sa.func.min(column)).where(column.table.c.organization_id == ORGANIZATION).scalar_subquery()
    )


# The earliest that is known of use, whether its rows are still there or not.
FIRST_USE = sa.func.least(_first(d.c.starting_at), _first(e.c.started_at))
