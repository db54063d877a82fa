"""The statements that move spend counters. SQL as such: each is one step that must be exact, and reads best whole."""

import sqlalchemy as sa

from app.database.engine import Query
from app.spend_limits.limits import Enforcement, LimitMode, LimitPeriod
from app.spend_limits.tables import spend_counter as c
from app.spend_limits.tables import spend_limit as t


def _sql(text: str) -> Query:
    return Query(sa.text(text))


FORGET_COUNTERS = _sql(
    "DELETE FROM spend_counter"
    " WHERE organization_id = CAST(:organization_id AS text) AND limit_id = CAST(:limit_id AS uuid)"
)
FORGET_ALERTS = _sql(
    "DELETE FROM spend_alert"
    " WHERE organization_id = CAST(:organization_id AS text) AND limit_id = CAST(:limit_id AS uuid)"
)

# What managed use costs is what is billed for it; BYO is never billed and counts by its estimate.
# Periods begin with a UTC day, so daily sums make them up; rows that are in none yet are read themselves, in the
# same statement and snapshot. A correction that brings the cost its event lacked takes one from what is unpriced.
_COUNT = """
    WITH wanted AS (
        SELECT CAST(:organization_id AS text) AS organization_id, CAST(:period AS text) AS period,
            CAST(:counts_from AS timestamptz) AS counts_from, CAST(:mode AS text) AS mode,
            CAST(:model AS text) AS model, CAST(:endpoint_id AS text) AS endpoint_id,
            CAST(:feature AS text) AS feature
    ), used AS (
        SELECT s.starting_at AS at, s.mode, s.cost, s.billed, s.unpriced_requests AS unpriced
        FROM wanted w JOIN {sums} s ON s.organization_id = w.organization_id
            AND s.starting_at >= w.counts_from AND w.mode IN ('any', s.mode)
            AND (w.model IS NULL OR s.model = w.model) {of_detail}
        UNION ALL
        SELECT e.started_at, e.mode, e.cost, e.billed,
            CASE WHEN e.correction = 0 AND e.cost IS NULL THEN 1
                WHEN e.correction = 1 AND e.cost IS NOT NULL THEN -1 ELSE 0 END
        FROM wanted w JOIN usage_event e ON e.organization_id = w.organization_id
            AND e.ingest_xid < 9223372036854775807 AND e.ingest_xid >= (SELECT coalesce((
                SELECT folded_before FROM usage_fold WHERE organization_id = CAST(:organization_id AS text)), 0))
            AND e.started_at >= w.counts_from AND w.mode IN ('any', e.mode)
            AND (w.model IS NULL OR e.model = w.model)
            AND (w.endpoint_id IS NULL OR e.endpoint_id = w.endpoint_id)
            AND (w.feature IS NULL OR e.feature = w.feature)
    ), counted AS (
        SELECT at, CASE mode WHEN 'managed' THEN billed ELSE 0 END AS managed,
            CASE mode WHEN 'byo' THEN coalesce(cost, 0) ELSE 0 END AS byo, 0 AS reserved, unpriced
        FROM used
        UNION ALL
        SELECT r.created_at, 0, 0, coalesce(r.amount, 0), 0
        FROM wanted w JOIN spend_reservation r ON r.organization_id = w.organization_id AND r.state = 'open'
            AND r.created_at >= w.counts_from AND w.mode IN ('any', r.mode)
            AND (w.model IS NULL OR r.model = w.model)
            AND (w.endpoint_id IS NULL OR r.endpoint_id = w.endpoint_id)
            AND (w.feature IS NULL OR r.feature = w.feature)
    )
    INSERT INTO spend_counter
        (organization_id, limit_id, period_starts_at, settled_managed, settled_byo, reserved, unpriced)
    SELECT w.organization_id, CAST(:limit_id AS uuid),
        CASE w.period WHEN 'total' THEN to_timestamp(0) ELSE date_trunc(w.period, c.at, 'UTC') END,
        sum(c.managed), sum(c.byo), sum(c.reserved), sum(c.unpriced)
    FROM wanted w, counted c GROUP BY 1, 2, 3
"""
COUNT = _sql(_COUNT.format(sums="usage_day", of_detail=""))
# Of scopes that name an endpoint or a feature.
COUNT_DETAIL = _sql(
    _COUNT.format(
        sums="usage_day_detail",
        of_detail="""AND (w.endpoint_id IS NULL OR s.endpoint_id = w.endpoint_id)
            AND (w.feature IS NULL OR s.feature = w.feature)""",
    )
)

# What a reservation goes by, once all of it stands still. One row for each limit, one without a limit where there is none.
STANDING = _sql("""
    WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now)
    SELECT clock.now, m.mode, m.credential_id, m.effective_from, m.changed_by, l.*
    FROM clock
    LEFT JOIN LATERAL (
        SELECT * FROM usage_mode_change
        WHERE usage_mode_change.organization_id = :organization_id AND effective_from <= clock.now
        ORDER BY effective_from DESC LIMIT 1) m ON true
    LEFT JOIN spend_limit AS l ON l.organization_id = :organization_id
    ORDER BY l.id
""")

# The guard. A counter that two want is one's after the other, and the condition is judged on its latest state.
# A limit that only tells takes whatever comes. The reservation goes with it, so that this is the last statement
# before the commit: until then others wait for the counters.
RESERVE = _sql("""
    WITH held AS (
        INSERT INTO spend_counter AS c
            (organization_id, limit_id, period_starts_at, settled_managed, settled_byo, reserved, unpriced)
        SELECT l.organization_id, l.id, x.period, 0, 0, CAST(:amount AS numeric), 0
        FROM unnest(CAST(:limit_ids AS uuid[]), CAST(:periods AS timestamptz[])) AS x (id, period)
        JOIN spend_limit l ON l.organization_id = CAST(:organization_id AS text) AND l.id = x.id
        WHERE l.enforcement = 'notify' OR CAST(:amount AS numeric) <= l.amount
        ORDER BY l.id, x.period
        ON CONFLICT (organization_id, limit_id, period_starts_at) DO UPDATE
        SET reserved = c.reserved + excluded.reserved
        WHERE c.settled_managed + c.settled_byo + c.reserved + excluded.reserved <= (
            SELECT CASE b.enforcement WHEN 'notify' THEN CAST('Infinity' AS numeric) ELSE b.amount END
            FROM spend_limit b WHERE b.organization_id = c.organization_id AND b.id = c.limit_id)
        RETURNING c.limit_id
    ), made AS (
        INSERT INTO spend_reservation (organization_id, id, amount, mode, model, endpoint_id, feature, state,
            created_at, created_by, expires_at)
        VALUES (CAST(:organization_id AS text), CAST(:id AS uuid), CAST(:amount AS numeric), CAST(:mode AS text),
            CAST(:model AS text), CAST(:endpoint_id AS text), CAST(:feature AS text), 'open',
            CAST(:created_at AS timestamptz), CAST(:created_by AS text), CAST(:expires_at AS timestamptz))
    )
    SELECT limit_id FROM held
""")

ADD = _sql("""
    INSERT INTO spend_counter AS c
        (organization_id, limit_id, period_starts_at, settled_managed, settled_byo, reserved, unpriced)
    SELECT CAST(:organization_id AS text), x.id, x.period, x.managed, x.byo, x.reserved, x.unpriced
    FROM unnest(CAST(:limit_ids AS uuid[]), CAST(:periods AS timestamptz[]), CAST(:managed AS numeric[]),
        CAST(:byo AS numeric[]), CAST(:reserved AS numeric[]), CAST(:unpriced AS bigint[]))
        AS x (id, period, managed, byo, reserved, unpriced)
    ORDER BY x.id, x.period
    ON CONFLICT (organization_id, limit_id, period_starts_at) DO UPDATE
    SET settled_managed = c.settled_managed + excluded.settled_managed,
        settled_byo = c.settled_byo + excluded.settled_byo,
        reserved = c.reserved + excluded.reserved,
        unpriced = c.unpriced + excluded.unpriced
    RETURNING c.limit_id, c.period_starts_at, c.settled_managed, c.settled_byo, c.reserved, c.unpriced
""")

STATES = _sql("""
    SELECT l.*, h.period_at_hand, statement_timestamp() AS now,
        coalesce(c.settled_managed, 0) AS settled_managed, coalesce(c.settled_byo, 0) AS settled_byo,
        coalesce(c.reserved, 0) AS reserved, coalesce(c.unpriced, 0) AS unpriced
    FROM spend_limit l
    CROSS JOIN LATERAL (
        SELECT CASE l.period WHEN 'total' THEN to_timestamp(0)
            ELSE date_trunc(l.period, statement_timestamp(), 'UTC') END AS period_at_hand) h
    LEFT JOIN spend_counter c ON c.organization_id = l.organization_id AND c.limit_id = l.id
        AND c.period_starts_at = h.period_at_hand
    WHERE l.organization_id = CAST(:organization_id AS text)
        AND (CAST(:limit_id AS uuid) IS NULL OR l.id = CAST(:limit_id AS uuid))
        AND (CAST(:before AS uuid) IS NULL OR l.id < CAST(:before AS uuid))
    ORDER BY l.id DESC LIMIT CAST(:at_most AS integer)
""")


def is_limit_reached(
    organization_id: sa.ColumnElement[str], mode: sa.ColumnElement[str]
) -> sa.ColumnElement[bool]:
    """Whether a blocking limit on all that runs in this mode leaves nothing, in the period at hand."""
    at_hand = sa.case(
        (t.c.period == _word(LimitPeriod.TOTAL), sa.func.to_timestamp(sa.literal_column("0"))),
        else_=sa.func.date_trunc(t.c.period, sa.func.statement_timestamp(), sa.literal_column("'UTC'")),
    )
    counter = sa.and_(
        c.c.organization_id == t.c.organization_id, c.c.limit_id == t.c.id, c.c.period_starts_at == at_hand
    )
    counted = c.c.settled_managed + c.c.settled_byo + c.c.reserved
    return sa.exists(
        sa.select(t.c.id)
        .select_from(t.outerjoin(c, counter))
        .where(
            t.c.organization_id == organization_id,
            t.c.enforcement == _word(Enforcement.BLOCK),
            t.c.scope_mode.in_([_word(LimitMode.ANY), mode]),
            t.c.scope_model.is_(None),
            t.c.scope_endpoint_id.is_(None),
            t.c.scope_feature.is_(None),
            sa.func.coalesce(counted, sa.literal_column("0")) >= t.c.amount,
        )
    )


def _word(value: str) -> sa.ColumnElement[str]:
    return sa.literal_column(f"'{value}'", type_=sa.Text)
