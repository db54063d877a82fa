"""The SQL statements that change spend counters.

They are raw SQL: each is one atomic step, and is easier to review in one piece.
"""

from typing import Any

import sqlalchemy as sa

from app.database.bulk import found_for_each
from app.database.statements import Query
from app.spend_limits.limits import Enforcement, LimitMode, LimitPeriod
from app.spend_limits.tables import spend_counter as c
from app.spend_limits.tables import spend_limit as t


def _sql(text: str) -> Query:
    return Query(sa.text(text))


DELETE_COUNTERS = _sql(
    "DELETE FROM spend_counter"
    " WHERE organization_id = CAST(:organization_id AS text) AND limit_id = CAST(:limit_id AS uuid)"
)
DELETE_CROSSINGS = _sql(
    "DELETE FROM spend_alert"
    " WHERE organization_id = CAST(:organization_id AS text) AND limit_id = CAST(:limit_id AS uuid)"
)

# Managed usage counts by what is billed, BYO usage by its estimated cost, because BYO usage is never billed.
# Periods begin with a UTC day, so daily rollups cover them. The same statement, and so the same snapshot, adds the
# unaggregated rows. Endpoints and features are compared with every spelling that the ledger may have. The first price
# correction reduces the number of unpriced requests by one. RETURNING keeps Citus from COPY, which row-level security
# refuses. Rows with a negative number cancel others
# (`app.usage_events.records.unpriced_change`).
_RECOUNT_TEMPLATE = """
    WITH wanted AS (
        SELECT CAST(:organization_id AS text) AS organization_id, CAST(:period AS text) AS period,
            CAST(:counts_from AS timestamptz) AS counts_from, CAST(:mode AS text) AS mode,
            model_identity(CAST(:model AS text)) AS model, CAST(:endpoint_ids AS text[]) AS endpoint_ids,
            CAST(:features AS text[]) AS features
    ), used AS (
        SELECT s.starting_at AS at, s.mode, s.cost, s.billed, s.unpriced_requests AS unpriced
        FROM wanted w JOIN {rollup} s ON s.organization_id = w.organization_id
            AND s.starting_at >= w.counts_from AND w.mode IN ('any', s.mode)
            AND (w.model IS NULL OR model_identity(s.model) = w.model) {detail_conditions}
        UNION ALL
        SELECT e.started_at, e.mode, e.cost, e.billed,
            CASE WHEN e.correction = 0 AND e.cost IS NULL OR e.correction = -2 AND e.cost IS NOT NULL THEN 1
                WHEN e.correction = -1 AND e.cost IS NULL OR e.correction = 1 AND e.cost IS NOT NULL THEN -1
                ELSE 0 END
        FROM wanted w JOIN usage_event e ON e.organization_id = w.organization_id
            AND e.ingest_xid < 9223372036854775807 AND e.ingest_xid >= (SELECT coalesce((
                SELECT folded_before FROM usage_fold WHERE organization_id = CAST(:organization_id AS text)), 0))
            AND e.started_at >= w.counts_from AND w.mode IN ('any', e.mode)
            AND (w.model IS NULL OR model_identity(e.model) = w.model)
            AND (w.endpoint_ids IS NULL OR e.endpoint_id = ANY (w.endpoint_ids))
            AND (w.features IS NULL OR e.feature = ANY (w.features))
    ), counted AS (
        SELECT at, CASE mode WHEN 'managed' THEN billed ELSE 0 END AS managed,
            CASE mode WHEN 'byo' THEN coalesce(cost, 0) ELSE 0 END AS byo, 0 AS reserved, unpriced
        FROM used
        UNION ALL
        SELECT r.created_at, 0, 0, coalesce(r.amount, 0), 0
        FROM wanted w JOIN spend_reservation r ON r.organization_id = w.organization_id
            AND r.state IN ('open', 'unpriced')
            AND r.created_at >= w.counts_from AND w.mode IN ('any', r.mode)
            AND (w.model IS NULL OR model_identity(r.model) = w.model)
            AND (w.endpoint_ids IS NULL OR r.endpoint_id = ANY (w.endpoint_ids))
            AND (w.features IS NULL OR r.feature = ANY (w.features))
    )
    INSERT INTO spend_counter
        (organization_id, limit_id, period_starts_at, settled_managed, settled_byo, reserved, unpriced)
    SELECT w.organization_id, CAST(:limit_id AS uuid),
        CASE w.period WHEN 'total' THEN to_timestamp(0) ELSE date_trunc(w.period, c.at, 'UTC') END,
        sum(c.managed), sum(c.byo), sum(c.reserved), sum(c.unpriced)
    FROM wanted w, counted c GROUP BY 1, 2, 3
    RETURNING 1
"""
RECOUNT = _sql(_RECOUNT_TEMPLATE.format(rollup="usage_day", detail_conditions=""))
# For scopes that name an endpoint or a feature.
RECOUNT_DETAIL = _sql(
    _RECOUNT_TEMPLATE.format(
        rollup="usage_day_detail",
        detail_conditions="""AND (w.endpoint_ids IS NULL OR s.endpoint_id = ANY (w.endpoint_ids))
            AND (w.features IS NULL OR s.feature = ANY (w.features))""",
    )
)

# The function decides in order, reserves in every limit that applies or in none, and takes the ledger lock itself. It
# returns no row for a reservation that exists (migrations/versions/2026-11-29-0100_add_corrections.py).
RESERVE = _sql("""
    SELECT * FROM reserve_spend(CAST(:organization_id AS text), CAST(:ids AS uuid[]), CAST(:amounts AS bigint[]),
        CAST(:compatible_amounts AS bigint[]), CAST(:models AS text[]), CAST(:endpoint_ids AS text[]),
        CAST(:features AS text[]), CAST(:created_bys AS text[]), CAST(:ttls AS integer[]),
        CAST(:decided_at AS timestamptz))
""")

# Locks the reservations that ledger rows name, by id and before any counter, each by its key: as joins of what it has found
# before, PostgreSQL might compare each with each (`app.database.bulk.found_for_each`). A reservation is settled if its event is in
# the ledger and no row that names it lacks a price: also in this order, so a correction without a price charges the
# estimate again. Citus accepts no volatile function in the UPDATE itself. Returns the reservations that ended, those that are
# charged again, and in other rows all limits.
SETTLE = _sql("""
    WITH named AS MATERIALIZED (
        SELECT r.id, r.state FROM (SELECT x.id FROM unnest(CAST(:ids AS uuid[])) AS x (id) ORDER BY x.id) x
        CROSS JOIN LATERAL (
            SELECT r.id, r.state FROM spend_reservation r
            WHERE r.organization_id = CAST(:organization_id AS text) AND r.id = x.id AND r.state <> 'released'
            OFFSET 0 FOR UPDATE) r
    ), clock AS MATERIALIZED (
        SELECT clock_timestamp() AS now FROM (SELECT count(*) FROM named) AS locked
    ), changed AS (
        UPDATE spend_reservation r SET unpriced_rows = greatest(0, r.unpriced_rows + x.unpriced),
            state = CASE WHEN r.unpriced_rows + x.unpriced > 0 THEN 'unpriced' ELSE 'settled' END,
            ended_at = CASE WHEN r.unpriced_rows + x.unpriced > 0 THEN NULL
                ELSE coalesce(r.ended_at, (SELECT clock.now FROM clock)) END
        FROM unnest(CAST(:ids AS uuid[]), CAST(:unpriced AS integer[])) AS x (id, unpriced)
        WHERE r.organization_id = CAST(:organization_id AS text) AND r.id = x.id
            AND (r.id IN (SELECT named.id FROM named)) IS TRUE
        RETURNING r.*
    )
    SELECT c.id AS reservation_id, c.amount AS reserved, c.mode, c.model, c.endpoint_id, c.feature, c.state,
        c.created_at AS reserved_at, c.created_by AS reserved_by, c.expires_at, l.*
    FROM (
        SELECT * FROM changed
        WHERE (state = 'settled') <> (id IN (SELECT named.id FROM named WHERE named.state = 'settled'))) c
    FULL JOIN (SELECT * FROM spend_limit WHERE organization_id = CAST(:organization_id AS text)) l
        ON false
""")

_INSERT_COUNTERS = """
    INSERT INTO spend_counter AS c
        (organization_id, limit_id, period_starts_at, settled_managed, settled_byo, reserved, unpriced)
    {rows}
    ON CONFLICT (organization_id, limit_id, period_starts_at) DO UPDATE
    SET settled_managed = c.settled_managed + excluded.settled_managed,
        settled_byo = c.settled_byo + excluded.settled_byo,
        reserved = c.reserved + excluded.reserved,
        unpriced = c.unpriced + excluded.unpriced
    RETURNING c.limit_id, c.period_starts_at, c.settled_managed, c.settled_byo, c.reserved, c.unpriced
"""
ADD = _sql(
    _INSERT_COUNTERS.format(
        rows="""
    SELECT CAST(:organization_id AS text), x.id, x.period, x.managed, x.byo, x.reserved, x.unpriced
    FROM unnest(CAST(:limit_ids AS uuid[]), CAST(:periods AS timestamptz[]), CAST(:managed AS numeric[]),
        CAST(:byo AS numeric[]), CAST(:reserved AS numeric[]), CAST(:unpriced AS bigint[]))
        AS x (id, period, managed, byo, reserved, unpriced)
    ORDER BY x.id, x.period"""
    )
)
# Citus sends a row of constants with the statement, and any other rows in a temporary file.
ADD_ONE = _sql(
    _INSERT_COUNTERS.format(
        rows="""
    VALUES (CAST(:organization_id AS text), CAST(:limit_id AS uuid), CAST(:period AS timestamptz),
        CAST(:managed AS numeric), CAST(:byo AS numeric), CAST(:reserved AS numeric), CAST(:unpriced AS bigint))"""
    )
)

STATES = _sql("""
    SELECT l.*, h.current_period, statement_timestamp() AS now,
        coalesce(c.settled_managed, 0) AS settled_managed, coalesce(c.settled_byo, 0) AS settled_byo,
        coalesce(c.reserved, 0) AS reserved, coalesce(c.unpriced, 0) AS unpriced
    FROM spend_limit l
    CROSS JOIN LATERAL (
        SELECT CASE l.period WHEN 'total' THEN to_timestamp(0)
            ELSE date_trunc(l.period, statement_timestamp(), 'UTC') END AS current_period) h
    LEFT JOIN LATERAL (
        SELECT * FROM spend_counter c WHERE c.organization_id = l.organization_id AND c.limit_id = l.id
            AND c.period_starts_at = h.current_period OFFSET 0) c ON true
    WHERE l.organization_id = CAST(:organization_id AS text)
        AND (CAST(:limit_id AS uuid) IS NULL OR l.id = CAST(:limit_id AS uuid))
        AND (CAST(:before AS uuid) IS NULL OR l.id < CAST(:before AS uuid))
    ORDER BY l.id DESC LIMIT CAST(:at_most AS integer)
""")


def is_limit_reached(
    organization_id: sa.ColumnElement[str], mode: sa.ColumnElement[str]
) -> sa.ColumnElement[bool]:
    """Whether a blocking limit on all spend of this mode is used up in the current period."""
    return sa.exists(_full_limits(organization_id, mode, t.c.id))


def full_limits(
    organization_id: sa.ColumnElement[str], mode: sa.ColumnElement[str]
) -> sa.Select[tuple[Any, ...]]:
    """The blocking limits on all spend of this mode that are used up, and when their periods end."""
    a_period = sa.cast(sa.func.concat(sa.literal_column("'1 '"), t.c.period), sa.Interval)
    # In UTC, because a day or a month may have another length in the zone of the session.
    ends_at = sa.func.timezone(
        sa.literal_column("'UTC'"), sa.func.timezone(sa.literal_column("'UTC'"), _CURRENT_PERIOD) + a_period
    )
    period_ends_at = sa.case((t.c.period != _literal(LimitPeriod.TOTAL), ends_at)).label("period_ends_at")
    return _full_limits(organization_id, mode, t.c.id, t.c.name, period_ends_at).order_by(t.c.id)


def _full_limits(
    organization_id: sa.ColumnElement[str], mode: sa.ColumnElement[str], *columns: sa.ColumnElement[Any]
) -> sa.Select[tuple[Any, ...]]:
    counter = found_for_each(
        sa.select((c.c.settled_managed + c.c.settled_byo + c.c.reserved).label("counted")).where(
            c.c.organization_id == t.c.organization_id,
            c.c.limit_id == t.c.id,
            c.c.period_starts_at == _CURRENT_PERIOD,
        ),
        "counter",
    )
    return (
        sa.select(*columns)
        .select_from(t.outerjoin(counter, sa.true()))
        .where(
            t.c.organization_id == organization_id,
            t.c.enforcement == _literal(Enforcement.BLOCK),
            t.c.scope_mode.in_([_literal(LimitMode.ANY), mode]),
            t.c.scope_model.is_(None),
            t.c.scope_endpoint_id.is_(None),
            t.c.scope_feature.is_(None),
            sa.func.coalesce(counter.c.counted, sa.literal_column("0")) >= t.c.amount,
        )
    )


def _literal(value: str) -> sa.ColumnElement[str]:
    return sa.literal_column(f"'{value}'", type_=sa.Text)


_CURRENT_PERIOD = sa.case(
    (t.c.period == _literal(LimitPeriod.TOTAL), sa.func.to_timestamp(sa.literal_column("0"))),
    else_=sa.func.date_trunc(t.c.period, sa.func.statement_timestamp(), sa.literal_column("'UTC'")),
)
