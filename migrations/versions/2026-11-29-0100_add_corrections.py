"""Let an event replace an earlier one, find provider requests that were reported twice, and reserve once per id.

Revision ID: c3a8e15f60d7
Revises: 7d03b5f2a918
"""

import sqlalchemy as sa
from alembic import op

revision = "c3a8e15f60d7"
down_revision = "7d03b5f2a918"
branch_labels = None
depends_on = None

POLICY = (
    "USING (organization_id = current_setting('byok.org', true)) "
    "WITH CHECK (organization_id = current_setting('byok.org', true))"
)
# The shortest retention that can be set, as in the revisions before.
SHORTEST = "least(older_than, now() - interval '70 days')"

# Decides about several reservations of one organization in their order, and writes those that are granted. Unlike the
# function of the same name without `decided_at`, which the previous release calls, it skips ids that exist already: a
# repeated request may have the id of an attempt that is still running. It returns no row for them.
#
# Each statement of a volatile function sees what was committed before it. An attempt that reserved in a limit holds the
# limit's counter until it commits, so everything after the lock on the counters sees its reservation. Without a limit,
# the insertion waits for the attempt. Counters are locked in the order of limit and period, as in all other statements.
RESERVE_SPEND = """
    CREATE FUNCTION reserve_spend(
        organization text, ids uuid[], amounts bigint[], compatible_amounts bigint[], models text[],
        endpoint_ids text[], features text[], created_bys text[], ttls_in_seconds integer[], decided_at timestamptz)
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
        existing uuid[];
        made uuid[];
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
        -- The limit that refuses each item.
        refusals integer[] := array_fill(NULL::integer, ARRAY[cardinality(ids)]);
        found_counters integer;
        number integer;
    BEGIN
        PERFORM set_config('byok.org', organization, true);
        PERFORM pg_advisory_xact_lock_shared(hashtext('byok.usage_mode'), hashtext(organization));
        -- The caller priced the items at this instant, under the same lock.
        now_at := coalesce(decided_at, clock_timestamp());
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

            SELECT array_agg(r.id) INTO existing FROM public.spend_reservation r
            WHERE r.organization_id = organization AND r.id = ANY (ids);
            added := array_fill(0::numeric, ARRAY[cardinality(limit_ids)]);
            SELECT array_agg(public.model_identity(x.model) ORDER BY x.place) INTO item_models
            FROM unnest(models) WITH ORDINALITY AS x (model, place);
            FOR item IN 1 .. cardinality(ids) LOOP
                CONTINUE WHEN ids[item] = ANY (existing);
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
        END IF;

        WITH inserted AS (
            INSERT INTO public.spend_reservation (organization_id, id, amount, mode, model, endpoint_id, feature, state,
                created_at, created_by, expires_at)
            SELECT organization, x.id, x.amount, active_mode, x.model, x.endpoint_id, x.feature, 'open', now_at,
                x.created_by, now_at + make_interval(secs => x.ttl)
            FROM unnest(ids, charged, models, endpoint_ids, features, created_bys, ttls_in_seconds, refusals)
                AS x (id, amount, model, endpoint_id, feature, created_by, ttl, refusal)
            WHERE x.refusal IS NULL
            ON CONFLICT ON CONSTRAINT pk_spend_reservation DO NOTHING RETURNING id)
        SELECT coalesce(array_agg(inserted.id), '{}') INTO made FROM inserted;

        IF limit_ids IS NOT NULL THEN
            -- Only if an attempt reserved in counters of another period, just before midnight: the client may repeat it.
            IF EXISTS (
                SELECT FROM unnest(ids, refusals) AS x (id, refusal)
                WHERE x.refusal IS NULL AND x.id <> ALL (made) AND x.id <> ALL (coalesce(existing, '{}')))
            THEN
                RAISE EXCEPTION 'another attempt is making this reservation' USING ERRCODE = 'lock_not_available';
            END IF;
            UPDATE public.spend_counter s SET reserved = s.reserved + x.added
            FROM unnest(limit_ids, limit_periods, added) AS x (limit_id, period, added)
            WHERE s.organization_id = organization AND s.limit_id = x.limit_id
                AND s.period_starts_at = x.period AND x.added > 0;
        END IF;

        RETURN QUERY SELECT x.id, x.amount, active_mode, now_at, limit_ids[x.refusal], limit_names[x.refusal],
            x.refusal IS NOT NULL AND x.amount IS NULL
        FROM unnest(ids, charged, refusals) AS x (id, amount, refusal)
        WHERE x.refusal IS NOT NULL OR x.id = ANY (made);
    END $$
"""
RESERVE_SPEND_TYPES = (
    "text, uuid[], bigint[], bigint[], text[], text[], text[], text[], integer[], timestamptz"
)


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    # On the rows of a correcting event: the event that it replaces. On the rows that cancel the replaced event's: the
    # correcting event.
    for column in ("corrects", "corrected_by"):
        op.add_column("usage_event", sa.Column(column, sa.Text))
    create_request_keys()
    purge_keys(REQUEST_KEYS_TOO)
    op.execute(RESERVE_SPEND)
    op.execute(f"REVOKE ALL ON FUNCTION reserve_spend({RESERVE_SPEND_TYPES}) FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION reserve_spend({RESERVE_SPEND_TYPES}) TO byok_service")


def create_request_keys() -> None:
    op.create_table(
        "usage_request_key",
        sa.Column("organization_id", sa.Text, nullable=False),
        # Collation C sorts by bytes, the same on every server. Batches are sorted in this order.
        sa.Column("provider_request_id", sa.Text(collation="C"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "provider_request_id", name="pk_usage_request_key"),
    )
    op.create_index(
        "ix_usage_request_key_started_at", "usage_request_key", ["started_at"], postgresql_using="brin"
    )
    # Append-only: no grant to update or delete. The owner purges across organizations, so the policy does not bind it.
    op.execute("GRANT SELECT, INSERT ON usage_request_key TO byok_service")
    op.execute("ALTER TABLE usage_request_key ENABLE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY organization ON usage_request_key TO byok_service {POLICY}")


REQUEST_KEYS_TOO = """
            DELETE FROM public.usage_request_key WHERE ctid = ANY (ARRAY(
                SELECT ctid FROM public.usage_request_key
                WHERE started_at < last_kept LIMIT at_most FOR UPDATE SKIP LOCKED));
            GET DIAGNOSTICS purged_requests = ROW_COUNT;"""


def purge_keys(also: str) -> None:
    """Ids go only after their rows: never before the month's partition. The result counts the kind of which more went."""
    op.execute(f"""
        CREATE OR REPLACE FUNCTION purge_usage_event_keys(older_than timestamptz, at_most integer) RETURNS integer
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
        SET timezone = 'UTC'
        AS $$
        DECLARE
            last_kept timestamptz := date_trunc('month', {SHORTEST});
            purged integer;
            purged_requests integer := 0;
        BEGIN
            IF EXISTS (
                SELECT FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid
                WHERE inhparent = 'public.usage_event'::regclass
                AND to_date(right(child.relname, 7), 'YYYY"m"MM') < last_kept::date
            ) THEN
                RETURN 0;
            END IF;
            DELETE FROM public.usage_event_key WHERE ctid = ANY (ARRAY(
                SELECT ctid FROM public.usage_event_key
                WHERE started_at < last_kept LIMIT at_most FOR UPDATE SKIP LOCKED));
            GET DIAGNOSTICS purged = ROW_COUNT;{also}
            RETURN greatest(purged, purged_requests);
        END $$
    """)


def downgrade() -> None:
    """Corrections stay in the ledger: they add up to the same totals, except for the number of requests."""
    op.execute("SET LOCAL lock_timeout = '3s'")
    purge_keys("")
    op.drop_table("usage_request_key")
    for column in ("corrected_by", "corrects"):
        op.drop_column("usage_event", column)
    op.execute(f"DROP FUNCTION reserve_spend({RESERVE_SPEND_TYPES})")
