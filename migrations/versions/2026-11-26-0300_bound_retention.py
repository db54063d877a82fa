"""Bound what retention may take: no month of the last 70 days, and none with rows that are not in the sums yet.

Revision ID: 4e8a61c0d95b
Revises: 3fc8a15e7d92
"""

from alembic import op

revision = "4e8a61c0d95b"
down_revision = "3fc8a15e7d92"
branch_labels = None
depends_on = None


# The shortest retention that can be set. Whoever has the service's role cannot take younger rows either.
SHORTEST = "least(older_than, now() - interval '70 days')"


def drop_months(older_than: str, *, unless: str = "") -> None:
    op.execute(f"""
        CREATE OR REPLACE FUNCTION drop_usage_partitions(older_than timestamptz) RETURNS integer
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
        SET timezone = 'UTC' SET lock_timeout = '1s'
        AS $$
        DECLARE
            last_kept timestamptz := date_trunc('month', {older_than});
            found record;
            dropped integer := 0;
        BEGIN
            IF NOT pg_try_advisory_xact_lock(hashtext('byok.usage_partitions')) THEN
                RETURN 0;  -- another instance is at it
            END IF;
            FOR found IN
                SELECT child.relname AS name FROM pg_inherits
                JOIN pg_class child ON child.oid = inhrelid
                WHERE inhparent = 'public.usage_event'::regclass
                AND to_date(right(child.relname, 7), 'YYYY"m"MM') < last_kept::date
                ORDER BY child.relname
            LOOP
                {unless}
                EXECUTE format('DROP TABLE public.%I', found.name);
                dropped := dropped + 1;
            END LOOP;
            RETURN dropped;
        END $$
    """)


def purge_keys(older_than: str) -> None:
    """Ids go only after their rows: never before the month's partition."""
    op.execute(f"""
        CREATE OR REPLACE FUNCTION purge_usage_event_keys(older_than timestamptz, at_most integer) RETURNS integer
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
        SET timezone = 'UTC'
        AS $$
        DECLARE
            last_kept timestamptz := date_trunc('month', {older_than});
            purged integer;
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
            GET DIAGNOSTICS purged = ROW_COUNT;
            RETURN purged;
        END $$
    """)


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    # An organization with such rows has an item in the queue, and few have one. A month so old gets no more rows, so the
    # result stays true. The setting is restored by hand: CREATE FUNCTION ... SET byok.org needs a superuser.
    op.execute("""
        CREATE FUNCTION has_unfolded_usage(partition_name name) RETURNS boolean
        LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp
        AS $$
        DECLARE
            caller_organization text := coalesce(current_setting('byok.org', true), '');
            waiting record;
            watermark bigint;
            is_there boolean := false;
        BEGIN
            FOR waiting IN SELECT organization_id FROM public.job_queue WHERE kind = 'fold_usage' LOOP
                PERFORM set_config('byok.org', waiting.organization_id, true);
                SELECT folded_before INTO watermark FROM public.usage_fold
                WHERE organization_id = waiting.organization_id;
                EXECUTE format(
                    'SELECT EXISTS (SELECT FROM public.%I WHERE organization_id = $1 AND ingest_xid >= $2)', partition_name
                ) INTO is_there USING waiting.organization_id, coalesce(watermark, 0);
                EXIT WHEN is_there;
            END LOOP;
            PERFORM set_config('byok.org', caller_organization, true);
            RETURN is_there;
        END $$
    """)
    op.execute("REVOKE ALL ON FUNCTION has_unfolded_usage(name) FROM PUBLIC")
    drop_months(SHORTEST, unless="CONTINUE WHEN public.has_unfolded_usage(found.name);")
    purge_keys(SHORTEST)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    drop_months("older_than")
    purge_keys("older_than")
    op.execute("DROP FUNCTION has_unfolded_usage(name)")
