"""Reserve for one request without a temporary file on Citus, and let watermarks be reset in a cell on a worker.

Citus inserts rows that it does not know as constants in two steps, with a temporary file on the worker, and then takes a
two-phase commit. A reservation is most often for one request, whose row can be given as constants. Citus does not accept an
INSERT whose SELECT reads a table, so the queue of rollups reads it in a materialized CTE.

Revision ID: 8a41f6d20c95
Revises: a91c5e70d4b8
"""

from alembic import op

revision = "8a41f6d20c95"
down_revision = "a91c5e70d4b8"
branch_labels = None
depends_on = None

RESERVE = "reserve_spend(text,uuid[],bigint[],bigint[],text[],text[],text[],text[],integer[],timestamptz)"
INSERT_ALL = """        WITH inserted AS (
            INSERT INTO public.spend_reservation (organization_id, id, amount, mode, model, endpoint_id, feature, state,
                created_at, created_by, expires_at)
            SELECT organization, x.id, x.amount, active_mode, x.model, x.endpoint_id, x.feature, 'open', now_at,
                x.created_by, now_at + make_interval(secs => x.ttl)
            FROM unnest(ids, charged, models, endpoint_ids, features, created_bys, ttls_in_seconds, refusals)
                AS x (id, amount, model, endpoint_id, feature, created_by, ttl, refusal)
            WHERE x.refusal IS NULL
            ON CONFLICT ON CONSTRAINT pk_spend_reservation DO NOTHING RETURNING id)
        SELECT coalesce(array_agg(inserted.id), '{}') INTO made FROM inserted;
"""
INSERT_ONE_OR_ALL = f"""        made := '{{}}';
        IF cardinality(ids) > 1 THEN
{INSERT_ALL}        ELSIF cardinality(ids) = 1 AND refusals[1] IS NULL THEN
            -- Citus sends a row of constants with the statement, and any other rows in a temporary file.
            INSERT INTO public.spend_reservation AS r (organization_id, id, amount, mode, model, endpoint_id, feature,
                state, created_at, created_by, expires_at)
            VALUES (organization, ids[1], charged[1], active_mode, models[1], endpoint_ids[1], features[1],
                'open', now_at, created_bys[1], now_at + make_interval(secs => ttls_in_seconds[1]))
            ON CONFLICT ON CONSTRAINT pk_spend_reservation DO NOTHING RETURNING ARRAY[r.id] INTO made;
            made := coalesce(made, '{{}}');
        END IF;
"""
RESET = "reset_usage_watermarks()"
NO_ITEM = "'00000000-0000-0000-0000-000000000000'::uuid"
QUEUE = f"""            INSERT INTO public.job_queue (organization_id, kind, id, due_at)
                SELECT DISTINCT organization_id, 'fold_usage', {NO_ITEM}, now()
                FROM public.usage_event WHERE ingest_xid > 0
                ON CONFLICT DO NOTHING;
"""
# EXECUTE discards the rows.
QUEUE_FROM_CTE = f"""            EXECUTE $queue$
                WITH waiting AS MATERIALIZED (
                    SELECT DISTINCT organization_id FROM public.usage_event WHERE ingest_xid > 0
                ), queued AS (
                    INSERT INTO public.job_queue (organization_id, kind, id, due_at)
                    SELECT organization_id, 'fold_usage', {NO_ITEM}, now() FROM waiting
                    ON CONFLICT DO NOTHING RETURNING 1)
                SELECT count(*) FROM queued
            $queue$;
"""


def upgrade() -> None:
    edit(RESERVE, INSERT_ALL, INSERT_ONE_OR_ALL)
    edit(RESET, QUEUE, QUEUE_FROM_CTE)


def downgrade() -> None:
    edit(RESET, QUEUE_FROM_CTE, QUEUE)
    edit(RESERVE, INSERT_ONE_OR_ALL, INSERT_ALL)


def edit(function: str, before: str, after: str) -> None:
    """Replace one part of a function. Its owner and its privileges stay."""
    op.execute(f"""
        DO $edit$
        DECLARE
            definition text := pg_get_functiondef('public.{function}'::regprocedure);
            before text := $part${before}$part$;
        BEGIN
            IF (length(definition) - length(replace(definition, before, ''))) <> length(before) THEN
                RAISE EXCEPTION 'the text of public.{function} is not that of the migrations';
            END IF;
            EXECUTE replace(definition, before, $part${after}$part$);
        END $edit$
    """)
