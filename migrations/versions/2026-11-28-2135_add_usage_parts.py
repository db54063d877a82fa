"""Split ledger events by model, and keep usage objects as they were sent.

Revision ID: 91d4f0a7c2e6
Revises: 6f2b9d47a1c8
"""

import sqlalchemy as sa
from alembic import op

revision = "91d4f0a7c2e6"
down_revision = "6f2b9d47a1c8"
branch_labels = None
depends_on = None

POLICY = (
    "USING (organization_id = current_setting('byok.org', true)) "
    "WITH CHECK (organization_id = current_setting('byok.org', true))"
)
# A part as a correction of the previous release. No event has that many corrections.
CORRECTIONS_PER_PART = 100_000


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    # The previous release inserts rows without the column while instances are replaced.
    op.add_column("usage_event", sa.Column("part", sa.Integer, nullable=False, server_default=sa.text("0")))
    set_key("organization_id", "started_at", "event_id", "part", "correction")
    op.create_table(
        "usage_object",
        sa.Column("organization_id", sa.Text, nullable=False),
        sa.Column("month", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ingested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ingest_xid", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("objects", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint(
            "organization_id", "month", "ingested_at", "ingest_xid", name="pk_usage_object"
        ),
        postgresql_partition_by="RANGE (month)",
    )
    # The content is compressed already.
    op.execute("ALTER TABLE usage_object ALTER COLUMN objects SET STORAGE EXTERNAL")
    # Append-only: no grant to update or delete.
    op.execute("GRANT SELECT, INSERT ON usage_object TO byok_service")
    op.execute("ALTER TABLE usage_object ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE usage_object FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY organization ON usage_object TO byok_service {POLICY}")
    ensure_months("'usage_event', 'usage_object'")
    drop_months("EXECUTE format('DROP TABLE IF EXISTS public.%I', 'usage_object' || right(found.name, 9));")
    op.execute("SELECT ensure_usage_partitions(now() - interval '36 days', now() + interval '62 days')")


def set_key(*columns: str) -> None:
    op.drop_constraint("pk_usage_event", "usage_event")
    op.create_primary_key("pk_usage_event", "usage_event", [*columns])


def ensure_months(tables: str) -> None:
    """The result counts months of the ledger."""
    op.execute(f"""
        CREATE OR REPLACE FUNCTION ensure_usage_partitions(from_instant timestamptz, to_instant timestamptz)
        RETURNS integer
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
        SET timezone = 'UTC'
        AS $$
        DECLARE
            first_day timestamptz := date_trunc('month', from_instant);
            next_day timestamptz;
            parent_name text;
            partition_name text;
            made integer := 0;
        BEGIN
            PERFORM pg_advisory_xact_lock(hashtext('byok.usage_partitions'));
            WHILE first_day <= to_instant LOOP
                next_day := first_day + interval '1 month';
                FOREACH parent_name IN ARRAY ARRAY[{tables}] LOOP
                    partition_name := parent_name || '_y' || to_char(first_day, 'YYYY"m"MM');
                    IF to_regclass('public.' || partition_name) IS NULL THEN
                        EXECUTE format(
                            'CREATE TABLE public.%I (LIKE public.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS'
                            ' INCLUDING STORAGE)', partition_name, parent_name);
                        EXECUTE format(
                            'ALTER TABLE public.%I ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)',
                            parent_name, partition_name, first_day, next_day);
                        made := made + (parent_name = 'usage_event')::integer;
                    END IF;
                END LOOP;
                first_day := next_day;
            END LOOP;
            RETURN made;
        END $$
    """)


def drop_months(also: str) -> None:
    op.execute(f"""
        CREATE OR REPLACE FUNCTION drop_usage_partitions(older_than timestamptz) RETURNS integer
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
        SET timezone = 'UTC' SET lock_timeout = '1s'
        AS $$
        DECLARE
            last_kept timestamptz := date_trunc('month', least(older_than, now() - interval '70 days'));
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
                CONTINUE WHEN public.has_unfolded_usage(found.name);
                EXECUTE format('DROP TABLE public.%I', found.name);
                {also}
                dropped := dropped + 1;
            END LOOP;
            RETURN dropped;
        END $$
    """)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    ensure_months("'usage_event'")
    drop_months("")
    op.drop_table("usage_object")
    # The previous release knows one row per event and its corrections. As corrections, the other models' rows keep
    # their tokens and costs in every total, and do not count as requests.
    op.execute("ALTER TABLE usage_event NO FORCE ROW LEVEL SECURITY")
    op.execute(
        f"UPDATE usage_event SET correction = correction + part * {CORRECTIONS_PER_PART} WHERE part > 0"
    )
    op.execute("ALTER TABLE usage_event FORCE ROW LEVEL SECURITY")
    set_key("organization_id", "started_at", "event_id", "correction")
    op.drop_column("usage_event", "part")
