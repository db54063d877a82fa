"""Add retention of the ledger: months go whole and give way to readers, event ids go in bounded batches.

Revision ID: 7c1d0e5a9b42
Revises: b7d20c5e8f13
"""

from alembic import op

revision = "7c1d0e5a9b42"
down_revision = "b7d20c5e8f13"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    # Event ids are compared byte by byte, in the same order on every server, whatever its locale.
    for table in ("usage_event_key", "usage_event"):
        op.execute(f'ALTER TABLE {table} ALTER COLUMN event_id TYPE text COLLATE "C"')
    # Blocks of keys are of a time: a few hundred bytes tell which to read, where an index of rows would cost each insert.
    op.execute("CREATE INDEX ix_usage_event_key_started_at ON usage_event_key USING brin (started_at)")
    op.execute("""
        CREATE OR REPLACE FUNCTION drop_usage_partitions(older_than timestamptz) RETURNS integer
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
        SET timezone = 'UTC' SET lock_timeout = '1s'
        AS $$
        DECLARE
            last_kept timestamptz := date_trunc('month', older_than);
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
                EXECUTE format('DROP TABLE public.%I', found.name);
                dropped := dropped + 1;
            END LOOP;
            RETURN dropped;
        END $$
    """)
    # Ids go only after their rows: never before the month's partition.
    op.execute("""
        CREATE FUNCTION purge_usage_event_keys(older_than timestamptz, at_most integer) RETURNS integer
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
        SET timezone = 'UTC'
        AS $$
        DECLARE
            last_kept timestamptz := date_trunc('month', older_than);
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
    op.execute("REVOKE ALL ON FUNCTION purge_usage_event_keys(timestamptz, integer) FROM PUBLIC")
    op.execute("GRANT EXECUTE ON FUNCTION purge_usage_event_keys(timestamptz, integer) TO byok_service")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.execute("DROP FUNCTION purge_usage_event_keys(timestamptz, integer)")
    op.execute("DROP INDEX ix_usage_event_key_started_at")
    for table in ("usage_event_key", "usage_event"):
        op.execute(f'ALTER TABLE {table} ALTER COLUMN event_id TYPE text COLLATE "default"')
    op.execute("""
        CREATE OR REPLACE FUNCTION drop_usage_partitions(older_than timestamptz) RETURNS integer
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
        SET timezone = 'UTC'
        AS $$
        DECLARE
            last_kept timestamptz := date_trunc('month', older_than);
            found record;
            dropped integer := 0;
        BEGIN
            PERFORM pg_advisory_xact_lock(hashtext('byok.usage_partitions'));
            FOR found IN
                SELECT child.relname AS name FROM pg_inherits
                JOIN pg_class child ON child.oid = inhrelid
                WHERE inhparent = 'public.usage_event'::regclass
                AND to_date(right(child.relname, 7), 'YYYY"m"MM') < last_kept::date
            LOOP
                EXECUTE format('DROP TABLE public.%I', found.name);
                dropped := dropped + 1;
            END LOOP;
            DELETE FROM public.usage_event_key WHERE started_at < last_kept;
            RETURN dropped;
        END $$
    """)
