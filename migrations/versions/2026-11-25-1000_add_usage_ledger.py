"""Add the usage ledger: events by month, and the key that is exact over all months.

Revision ID: e2a94b7f1c60
Revises: c41f7d90be55
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "e2a94b7f1c60"
down_revision = "c41f7d90be55"
branch_labels = None
depends_on = None

UUID = postgresql.UUID(as_uuid=True)
COUNTERS = (
    "uncached_input_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "cache_read_tokens",
    "output_tokens",
    "web_search_requests",
)


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.create_table(
        "usage_event_key",
        sa.Column("organization_id", sa.Text, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("payload_hash", sa.LargeBinary, nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "event_id", name="pk_usage_event_key"),
    )
    create_ledger()
    for table in ("usage_event_key", "usage_event"):
        # Append-only: no grant to update or delete.
        op.execute(f"GRANT SELECT, INSERT ON {table} TO byok_service")
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY organization ON {table} TO byok_service "
            "USING (organization_id = current_setting('byok.org', true)) "
            "WITH CHECK (organization_id = current_setting('byok.org', true))"
        )
    op.execute("ALTER TABLE usage_event FORCE ROW LEVEL SECURITY")
    create_partition_functions()
    op.execute("SELECT ensure_usage_partitions(now() - interval '36 days', now() + interval '62 days')")


def create_ledger() -> None:
    op.create_table(
        "usage_event",
        sa.Column("organization_id", sa.Text, nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("correction", sa.Integer, nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True)),
        sa.Column("ingested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ingest_xid", sa.BigInteger, nullable=False),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("credential_id", UUID),
        sa.Column("key_version", sa.Integer),
        sa.Column("model", sa.Text, nullable=False),
        *(sa.Column(name, sa.Text) for name in ("endpoint_id", "feature", "session_id", "prompt_id")),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("usage_source", sa.Text, nullable=False),
        *(sa.Column(name, sa.Text) for name in ("service_tier", "speed", "inference_geo")),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in COUNTERS),
        sa.Column("cost", sa.BigInteger),
        sa.Column("billed", sa.BigInteger, nullable=False),
        sa.Column("price_version", sa.Text),
        sa.Column("flags", sa.Integer, nullable=False),
        sa.Column("provider_request_id", sa.Text),
        sa.Column("reservation_id", UUID),
        sa.PrimaryKeyConstraint(
            "organization_id", "started_at", "event_id", "correction", name="pk_usage_event"
        ),
        sa.CheckConstraint("mode IN ('managed', 'byo')", name=op.f("ck_usage_event_mode")),
        sa.CheckConstraint(
            "outcome IN ('succeeded', 'failed', 'aborted')", name=op.f("ck_usage_event_outcome")
        ),
        sa.CheckConstraint(
            "usage_source IN ('reported', 'estimated')", name=op.f("ck_usage_event_usage_source")
        ),
        sa.CheckConstraint("mode = 'managed' OR billed = 0", name=op.f("ck_usage_event_byo_is_never_billed")),
        sa.CheckConstraint("billed = 0 OR billed = cost", name=op.f("ck_usage_event_billed_is_cost")),
        postgresql_partition_by="RANGE (started_at)",
    )
    op.create_index("ix_usage_event_ingest_xid", "usage_event", ["organization_id", "ingest_xid"])
    for name in ("session", "prompt"):
        op.create_index(
            f"ix_usage_event_{name}",
            "usage_event",
            ["organization_id", f"{name}_id", "started_at"],
            postgresql_where=sa.text(f"{name}_id IS NOT NULL"),
        )


def create_partition_functions() -> None:
    """Months are UTC. A partition is made apart and attached: that lets reads and writes of the others go on."""
    op.execute("""
        CREATE FUNCTION ensure_usage_partitions(from_instant timestamptz, to_instant timestamptz) RETURNS integer
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
        SET timezone = 'UTC'
        AS $$
        DECLARE
            first_day timestamptz := date_trunc('month', from_instant);
            next_day timestamptz;
            partition_name text;
            made integer := 0;
        BEGIN
            PERFORM pg_advisory_xact_lock(hashtext('byok.usage_partitions'));
            WHILE first_day <= to_instant LOOP
                next_day := first_day + interval '1 month';
                partition_name := 'usage_event_y' || to_char(first_day, 'YYYY"m"MM');
                IF to_regclass('public.' || partition_name) IS NULL THEN
                    EXECUTE format(
                        'CREATE TABLE public.%I (LIKE public.usage_event INCLUDING DEFAULTS INCLUDING CONSTRAINTS)',
                        partition_name);
                    EXECUTE format(
                        'ALTER TABLE public.usage_event ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)',
                        partition_name, first_day, next_day);
                    made := made + 1;
                END IF;
                first_day := next_day;
            END LOOP;
            RETURN made;
        END $$
    """)
    # A whole month is dropped when its last row is past retention; the keys go with it, in the same transaction.
    op.execute("""
        CREATE FUNCTION drop_usage_partitions(older_than timestamptz) RETURNS integer
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
    for function in (
        "ensure_usage_partitions(timestamptz, timestamptz)",
        "drop_usage_partitions(timestamptz)",
    ):
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO byok_service")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.execute("DROP FUNCTION drop_usage_partitions(timestamptz)")
    op.execute("DROP FUNCTION ensure_usage_partitions(timestamptz, timestamptz)")
    op.drop_table("usage_event")
    op.drop_table("usage_event_key")
