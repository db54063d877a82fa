"""Add the sums of the ledger by hour and day, and their watermark.

Revision ID: 5b1c7e94d2a8
Revises: 5d81c3e6a4f7
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "5b1c7e94d2a8"
down_revision = "5d81c3e6a4f7"
branch_labels = None
depends_on = None

UUID = postgresql.UUID(as_uuid=True)
SUMMED = (
    "uncached_input_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "cache_read_tokens",
    "output_tokens",
    "web_search_requests",
    "cost",
    "billed",
)
ROLLUPS = ("usage_hour", "usage_day", "usage_hour_detail", "usage_day_detail")


def sums() -> list[sa.Column[object]]:
    return [
        sa.Column("requests", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.Numeric, nullable=False) for name in SUMMED),
        sa.Column("unpriced_requests", sa.BigInteger, nullable=False),
    ]


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    for table in ("usage_hour", "usage_day"):
        op.create_table(
            table,
            sa.Column("organization_id", sa.Text, nullable=False),
            sa.Column("starting_at", sa.DateTime(timezone=True), nullable=False),
            sa.Column("mode", sa.Text, nullable=False),
            sa.Column("model", sa.Text, nullable=False),
            *sums(),
            sa.PrimaryKeyConstraint("organization_id", "starting_at", "mode", "model", name=f"pk_{table}"),
        )
    for table in ("usage_hour_detail", "usage_day_detail"):
        op.create_table(
            table,
            sa.Column("organization_id", sa.Text, nullable=False),
            sa.Column("starting_at", sa.DateTime(timezone=True), nullable=False),
            sa.Column("digest", sa.LargeBinary, nullable=False),
            sa.Column("mode", sa.Text, nullable=False),
            sa.Column("model", sa.Text, nullable=False),
            sa.Column("endpoint_id", sa.Text),
            sa.Column("feature", sa.Text),
            sa.Column("credential_id", UUID),
            sa.Column("key_version", sa.Integer),
            sa.Column("outcome", sa.Text, nullable=False),
            *sums(),
            sa.PrimaryKeyConstraint("organization_id", "starting_at", "digest", name=f"pk_{table}"),
        )
    op.create_table(
        "usage_fold",
        sa.Column("organization_id", sa.Text, nullable=False),
        sa.Column("folded_before", sa.BigInteger, nullable=False),
        sa.Column("folded_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("organization_id", name="pk_usage_fold"),
    )
    for table in (*ROLLUPS, "usage_fold"):
        # The rows of the present hour and day are updated at every fold: room for them beside the old ones.
        op.execute(f"ALTER TABLE {table} SET (fillfactor = 70)")
        op.execute(f"GRANT SELECT, INSERT, UPDATE ON {table} TO byok_service")
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY organization ON {table} TO byok_service "
            "USING (organization_id = current_setting('byok.org', true)) "
            "WITH CHECK (organization_id = current_setting('byok.org', true))"
        )
    create_reset_function()


def create_reset_function() -> None:
    """Transaction numbers of another server mean nothing here: after a dump and restore they are replaced.

    What was folded gets 0, what was not gets 1, and 1 is where folding goes on: every transaction to come
    has a larger number. The policies are lifted within the transaction, because they bind the owner too.
    """
    op.execute("""
        CREATE FUNCTION reset_usage_watermarks() RETURNS bigint
        LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp
        AS $$
        DECLARE
            renumbered bigint;
        BEGIN
            LOCK TABLE public.usage_event, public.usage_fold IN ACCESS EXCLUSIVE MODE;
            ALTER TABLE public.usage_event NO FORCE ROW LEVEL SECURITY;
            ALTER TABLE public.usage_fold NO FORCE ROW LEVEL SECURITY;
            UPDATE public.usage_event event SET ingest_xid = CASE
                WHEN event.ingest_xid < coalesce((SELECT fold.folded_before FROM public.usage_fold fold
                    WHERE fold.organization_id = event.organization_id), 0) THEN 0 ELSE 1 END;
            GET DIAGNOSTICS renumbered = ROW_COUNT;
            UPDATE public.usage_fold SET folded_before = 1;
            INSERT INTO public.job_queue (organization_id, kind, id, due_at)
                SELECT DISTINCT organization_id, 'fold_usage', '00000000-0000-0000-0000-000000000000'::uuid, now()
                FROM public.usage_event WHERE ingest_xid = 1
                ON CONFLICT DO NOTHING;
            ALTER TABLE public.usage_event FORCE ROW LEVEL SECURITY;
            ALTER TABLE public.usage_fold FORCE ROW LEVEL SECURITY;
            RETURN renumbered;
        END $$
    """)
    op.execute("REVOKE ALL ON FUNCTION reset_usage_watermarks() FROM PUBLIC")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.execute("DROP FUNCTION reset_usage_watermarks()")
    for table in ("usage_fold", *ROLLUPS):
        op.drop_table(table)
