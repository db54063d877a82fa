"""Add the identity of models and the function that reserves spend; keep a reservation charged until a price is known.

Revision ID: 6f2b9d47a1c8
Revises: 9d41c7e2b805
"""

import sqlalchemy as sa
from alembic import op

revision = "6f2b9d47a1c8"
down_revision = "9d41c7e2b805"
branch_labels = None
depends_on = None

# The same rule as `app.core.model_identity`. Without SET, so that PostgreSQL can inline it; its names are resolved
# when it is created.
MODEL_IDENTITY = """
    CREATE FUNCTION model_identity(model_id text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN regexp_replace(model_id, '(.)-(latest|[0-9]{8})$', '\\1')
"""

# Decides about several reservations of one organization in their order, and writes those that are granted.
#
# Each statement of a volatile function sees what was committed before it, so everything after the ledger lock sees the
# limits and the mode that the lock waited for. Counters are locked in the order of limit and period, as in all other
# statements. Missing ones are inserted in the same order, by a statement that also locks the others.
RESERVE_SPEND = """
    CREATE FUNCTION reserve_spend(
        organization text, ids uuid[], amounts bigint[], compatible_amounts bigint[], models text[],
        endpoint_ids text[], features text[], created_bys text[], ttls_in_seconds integer[])
    RETURNS TABLE (
        id uuid, amount bigint, mode text, created_at timestamptz, refused_by uuid, refused_by_name text,
        is_price_unknown boolean)
    LANGUAGE plpgsql SECURITY INVOKER SET search_path = pg_catalog, public, pg_temp
    AS $$
    #variable_conflict use_column
    DECLARE
        now_at timestamptz;
        active_mode text := 'managed';
        is_compatible boolean := false;
        charged bigint[] := amounts;
        item_models text[];
        limit_ids uuid[];
        limit_names text[];
        limit_periods timestamptz[];
        limit_amounts numeric[];
        limit_blocks boolean[];
        limit_models text[];
        limit_endpoint_ids text[];
        limit_features text[];
        committed numeric[];
        added numeric[];
        matching integer[];
        refusals integer[] := array_fill(NULL::integer, ARRAY[cardinality(ids)]);
        found_counters integer;
        number integer;
    BEGIN
        PERFORM set_config('byok.org', organization, true);
        PERFORM pg_advisory_xact_lock_shared(hashtext('byok.usage_mode'), hashtext(organization));
        now_at := clock_timestamp();
        SELECT m.mode, v.base_url IS NOT NULL INTO active_mode, is_compatible
        FROM public.usage_mode_change m
        LEFT JOIN public.provider_credential c
            ON c.organization_id = m.organization_id AND c.id = m.credential_id
        LEFT JOIN public.credential_version v ON v.organization_id = c.organization_id
            AND v.credential_id = c.id AND v.key_version = c.current_key_version
        WHERE m.organization_id = organization AND m.effective_from <= now_at
        ORDER BY m.effective_from DESC LIMIT 1;
        active_mode := coalesce(active_mode, 'managed');
        IF is_compatible THEN
            charged := compatible_amounts;
        END IF;

        SELECT array_agg(l.id ORDER BY l.id), array_agg(l.name ORDER BY l.id),
            array_agg(CASE l.period WHEN 'total' THEN to_timestamp(0)
                ELSE date_trunc(l.period, now_at, 'UTC') END ORDER BY l.id),
            array_agg(l.amount ORDER BY l.id), array_agg(l.enforcement = 'block' ORDER BY l.id),
            array_agg(public.model_identity(l.scope_model) ORDER BY l.id),
            array_agg(l.scope_endpoint_id ORDER BY l.id), array_agg(l.scope_feature ORDER BY l.id)
        INTO limit_ids, limit_names, limit_periods, limit_amounts, limit_blocks,
            limit_models, limit_endpoint_ids, limit_features
        FROM public.spend_limit l
        WHERE l.organization_id = organization AND l.scope_mode IN ('any', active_mode) AND EXISTS (
            SELECT FROM unnest(models, endpoint_ids, features) AS x (model, endpoint_id, feature)
            WHERE (l.scope_model IS NULL OR public.model_identity(l.scope_model) = public.model_identity(x.model))
            AND (l.scope_endpoint_id IS NULL OR l.scope_endpoint_id = x.endpoint_id)
            AND (l.scope_feature IS NULL OR l.scope_feature = x.feature));

        IF limit_ids IS NOT NULL THEN
            SELECT array_agg(c.total ORDER BY c.limit_id), count(*) INTO committed, found_counters FROM (
                SELECT s.limit_id, s.settled_managed + s.settled_byo + s.reserved AS total
                FROM unnest(limit_ids, limit_periods) AS x (limit_id, period)
                JOIN public.spend_counter s ON s.organization_id = organization
                    AND s.limit_id = x.limit_id AND s.period_starts_at = x.period
                WHERE NOT EXISTS (
                    SELECT FROM unnest(limit_ids, limit_periods) AS y (limit_id, period)
                    WHERE NOT EXISTS (
                        SELECT FROM public.spend_counter o WHERE o.organization_id = organization
                        AND o.limit_id = y.limit_id AND o.period_starts_at = y.period))
                ORDER BY s.limit_id FOR UPDATE OF s) c;
            IF found_counters < cardinality(limit_ids) THEN
                WITH locked AS (
                    INSERT INTO public.spend_counter AS c
                        (organization_id, limit_id, period_starts_at, settled_managed, settled_byo, reserved, unpriced)
                    SELECT organization, x.limit_id, x.period, 0, 0, 0, 0
                    FROM unnest(limit_ids, limit_periods) AS x (limit_id, period) ORDER BY x.limit_id
                    ON CONFLICT (organization_id, limit_id, period_starts_at) DO UPDATE SET reserved = c.reserved
                    RETURNING c.limit_id, c.settled_managed + c.settled_byo + c.reserved AS total)
                SELECT array_agg(locked.total ORDER BY locked.limit_id) INTO committed FROM locked;
            END IF;

            added := array_fill(0::numeric, ARRAY[cardinality(limit_ids)]);
            SELECT array_agg(public.model_identity(x.model) ORDER BY x.place) INTO item_models
            FROM unnest(models) WITH ORDINALITY AS x (model, place);
            FOR item IN 1 .. cardinality(ids) LOOP
                matching := ARRAY[]::integer[];
                FOR number IN 1 .. cardinality(limit_ids) LOOP
                    IF (limit_models[number] IS NULL OR limit_models[number] = item_models[item])
                        AND (limit_endpoint_ids[number] IS NULL OR limit_endpoint_ids[number] = endpoint_ids[item])
                        AND (limit_features[number] IS NULL OR limit_features[number] = features[item])
                    THEN
                        -- A used-up limit grants nothing, not even an amount of 0, as readiness says. A price that is
                        -- not known is refused by every blocking limit.
                        IF limit_blocks[number] AND (charged[item] IS NULL
                            OR committed[number] >= limit_amounts[number]
                            OR committed[number] + charged[item] > limit_amounts[number])
                        THEN
                            refusals[item] := number;
                            EXIT;
                        END IF;
                        matching := matching || number;
                    END IF;
                END LOOP;
                IF refusals[item] IS NULL AND charged[item] IS NOT NULL THEN
                    FOREACH number IN ARRAY matching LOOP
                        committed[number] := committed[number] + charged[item];
                        added[number] := added[number] + charged[item];
                    END LOOP;
                END IF;
            END LOOP;
            UPDATE public.spend_counter s SET reserved = s.reserved + x.added
            FROM unnest(limit_ids, limit_periods, added) AS x (limit_id, period, added)
            WHERE s.organization_id = organization AND s.limit_id = x.limit_id
                AND s.period_starts_at = x.period AND x.added > 0;
        END IF;

        INSERT INTO public.spend_reservation (organization_id, id, amount, mode, model, endpoint_id, feature, state,
            created_at, created_by, expires_at)
        SELECT organization, x.id, x.amount, active_mode, x.model, x.endpoint_id, x.feature, 'open', now_at,
            x.created_by, now_at + make_interval(secs => x.ttl)
        FROM unnest(ids, charged, models, endpoint_ids, features, created_bys, ttls_in_seconds, refusals)
            AS x (id, amount, model, endpoint_id, feature, created_by, ttl, refusal)
        WHERE x.refusal IS NULL;
        RETURN QUERY SELECT x.id, x.amount, active_mode, now_at, limit_ids[x.refusal], limit_names[x.refusal],
            x.refusal IS NOT NULL AND x.amount IS NULL
        FROM unnest(ids, charged, refusals) AS x (id, amount, refusal);
    END $$
"""
RESERVE_SPEND_TYPES = "text, uuid[], bigint[], bigint[], text[], text[], text[], text[], integer[]"

HELD = "state IN ('open', 'unpriced')"

# The policies bind the owner too, so they are lifted until the end of the transaction, which locks these tables.
FORCED = ("spend_limit", "spend_counter", "usage_event", "usage_day", "usage_day_detail", "usage_fold")
# Counts the limits on one model again, after the rule changed that decides which ids mean that model.
RECOUNT = """
    DO $$
    DECLARE
        counted record;
    BEGIN
        FOR counted IN SELECT * FROM public.spend_limit WHERE scope_model IS NOT NULL LOOP
            DELETE FROM public.spend_counter
            WHERE organization_id = counted.organization_id AND limit_id = counted.id;
            INSERT INTO public.spend_counter
                (organization_id, limit_id, period_starts_at, settled_managed, settled_byo, reserved, unpriced)
            SELECT counted.organization_id, counted.id,
                CASE counted.period WHEN 'total' THEN to_timestamp(0)
                    ELSE date_trunc(counted.period, used.at, 'UTC') END,
                sum(CASE used.mode WHEN 'managed' THEN used.billed ELSE 0 END),
                sum(CASE used.mode WHEN 'byo' THEN used.cost ELSE 0 END), sum(used.reserved), sum(used.unpriced)
            FROM (
                SELECT starting_at AS at, mode, model, NULL AS endpoint_id, NULL AS feature, cost, billed,
                    unpriced_requests AS unpriced, 0::numeric AS reserved
                FROM public.usage_day
                WHERE organization_id = counted.organization_id
                    AND counted.scope_endpoint_id IS NULL AND counted.scope_feature IS NULL
                UNION ALL
                SELECT starting_at, mode, model, endpoint_id, feature, cost, billed, unpriced_requests, 0
                FROM public.usage_day_detail
                WHERE organization_id = counted.organization_id
                    AND (counted.scope_endpoint_id IS NOT NULL OR counted.scope_feature IS NOT NULL)
                UNION ALL
                SELECT started_at, mode, model, endpoint_id, feature, coalesce(cost, 0), billed,
                    CASE WHEN correction = 0 AND cost IS NULL THEN 1
                        WHEN correction = 1 AND cost IS NOT NULL THEN -1 ELSE 0 END, 0
                FROM public.usage_event
                WHERE organization_id = counted.organization_id AND ingest_xid >= coalesce((
                    SELECT folded_before FROM public.usage_fold
                    WHERE organization_id = counted.organization_id), 0)
                UNION ALL
                SELECT created_at, mode, model, endpoint_id, feature, 0, 0, 0, coalesce(amount, 0)
                FROM public.spend_reservation
                WHERE organization_id = counted.organization_id AND state = 'open'
            ) used
            WHERE used.at >= counted.counts_from AND counted.scope_mode IN ('any', used.mode)
                AND {same_model}
                AND (counted.scope_endpoint_id IS NULL OR used.endpoint_id = counted.scope_endpoint_id)
                AND (counted.scope_feature IS NULL OR used.feature = counted.scope_feature)
            GROUP BY 1, 2, 3;
        END LOOP;
    END $$
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    for statement in (MODEL_IDENTITY, RESERVE_SPEND):
        op.execute(statement)
    for function in ("model_identity(text)", f"reserve_spend({RESERVE_SPEND_TYPES})"):
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO byok_service")
    # The number of ledger rows that name the reservation and have no price yet.
    op.add_column(
        "spend_reservation", sa.Column("unpriced_rows", sa.Integer, nullable=False, server_default="0")
    )
    set_states("'open', 'unpriced', 'settled', 'released'")
    op.drop_index("ix_spend_reservation_open", "spend_reservation")
    op.create_index(
        "ix_spend_reservation_held",
        "spend_reservation",
        ["organization_id", "id"],
        postgresql_where=sa.text(HELD),
    )
    # Null: the previous release recorded the crossing.
    op.add_column("spend_alert", sa.Column("amount", sa.BigInteger))
    recount("public.model_identity(used.model) = public.model_identity(counted.scope_model)")


def recount(same_model: str) -> None:
    for table in FORCED:
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    op.execute(RECOUNT.format(same_model=same_model))
    for table in FORCED:
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")


def set_states(states: str) -> None:
    op.drop_constraint(op.f("ck_spend_reservation_state"), "spend_reservation")
    op.create_check_constraint(
        op.f("ck_spend_reservation_state"), "spend_reservation", f"state IN ({states})"
    )


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.drop_column("spend_alert", "amount")
    # The previous release counts a reservation as held only while it is open.
    op.execute("UPDATE spend_reservation SET state = 'open' WHERE state = 'unpriced'")
    set_states("'open', 'settled', 'released'")
    recount("used.model = counted.scope_model")
    op.drop_index("ix_spend_reservation_held", "spend_reservation")
    op.create_index(
        "ix_spend_reservation_open",
        "spend_reservation",
        ["organization_id", "created_at"],
        postgresql_where=sa.text("state = 'open'"),
    )
    op.drop_column("spend_reservation", "unpriced_rows")
    op.execute(f"DROP FUNCTION reserve_spend({RESERVE_SPEND_TYPES})")
    op.execute("DROP FUNCTION model_identity(text)")
