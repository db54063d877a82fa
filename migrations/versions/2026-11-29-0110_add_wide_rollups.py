"""Add rollups by every dimension but single sessions and prompts, and normalize the scopes of limits.

Revision ID: b7e2c05d9f14
Revises: c3a8e15f60d7
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "b7e2c05d9f14"
down_revision = "c3a8e15f60d7"
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
TABLES = ("usage_hour_wide", "usage_day_wide")
POLICY = (
    "USING (organization_id = current_setting('byok.org', true)) "
    "WITH CHECK (organization_id = current_setting('byok.org', true))"
)
NO_ITEM = "'00000000-0000-0000-0000-000000000000'::uuid"
WHITE_SPACE = r"E' \t\n\r\f\u0085\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000'"


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    for table in TABLES:
        create_rollup(table)
    # Most filters have few values. These two may have thousands, so that even a search by day would be long.
    for name in ("endpoint_id", "feature"):
        op.create_index(
            f"ix_usage_day_wide_{name}", "usage_day_wide", ["organization_id", name, "starting_at"]
        )
    op.create_index(
        "ix_usage_event_provider_request",
        "usage_event",
        ["organization_id", "provider_request_id"],
        postgresql_where=sa.text("provider_request_id IS NOT NULL"),
        if_not_exists=True,
    )
    # The previous release moves only the other watermark. This one catches up from here.
    op.add_column(
        "usage_fold",
        sa.Column("wide_folded_before", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    )
    has_unfolded("least(folded_before, wide_folded_before)")
    reset_both_watermarks()
    roll_up_later()
    normalize_scopes()


def create_rollup(table: str) -> None:
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
        sa.Column("usage_source", sa.Text, nullable=False),
        *(sa.Column(name, sa.Text) for name in ("service_tier", "speed", "inference_geo")),
        sa.Column("flags", sa.Integer, nullable=False),
        *(sa.Column(name, sa.Boolean, nullable=False) for name in ("has_session", "has_prompt")),
        sa.Column("requests", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.Numeric, nullable=False) for name in SUMMED),
        sa.Column("unpriced_requests", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "starting_at", "digest", name=f"pk_{table}"),
    )
    # The rows of the current hour and day are updated often: room for them beside the old ones.
    op.execute(f"ALTER TABLE {table} SET (fillfactor = 70)")
    op.execute(f"GRANT SELECT, INSERT, UPDATE ON {table} TO byok_service")
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY organization ON {table} TO byok_service {POLICY}")


def has_unfolded(watermark: str) -> None:
    op.execute(f"""
        CREATE OR REPLACE FUNCTION has_unfolded_usage(partition_name name) RETURNS boolean
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
                SELECT {watermark} INTO watermark FROM public.usage_fold
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


def reset_both_watermarks() -> None:
    """Rows get the number of watermarks that they are not below: 0, 1 or 2. Every later transaction has a larger number."""
    reset_watermarks(
        row_number=f"{is_not_below('folded_before')} + {is_not_below('wide_folded_before')}",
        watermarks="folded_before = 1 + (folded_before > wide_folded_before)::integer,"
        " wide_folded_before = 1 + (wide_folded_before > folded_before)::integer",
    )


def is_not_below(watermark: str) -> str:
    return (
        f"(event.ingest_xid >= coalesce((SELECT fold.{watermark} FROM public.usage_fold fold"
        " WHERE fold.organization_id = event.organization_id), 0))::integer"
    )


def reset_watermarks(row_number: str, watermarks: str) -> None:
    op.execute(f"""
        CREATE OR REPLACE FUNCTION reset_usage_watermarks() RETURNS bigint
        LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp
        AS $$
        DECLARE
            renumbered bigint;
        BEGIN
            LOCK TABLE public.usage_event, public.usage_fold IN ACCESS EXCLUSIVE MODE;
            ALTER TABLE public.usage_event NO FORCE ROW LEVEL SECURITY;
            ALTER TABLE public.usage_fold NO FORCE ROW LEVEL SECURITY;
            UPDATE public.usage_event event SET ingest_xid = {row_number};
            GET DIAGNOSTICS renumbered = ROW_COUNT;
            UPDATE public.usage_fold SET {watermarks};
            INSERT INTO public.job_queue (organization_id, kind, id, due_at)
                SELECT DISTINCT organization_id, 'fold_usage', {NO_ITEM}, now()
                FROM public.usage_event WHERE ingest_xid > 0
                ON CONFLICT DO NOTHING;
            ALTER TABLE public.usage_event FORCE ROW LEVEL SECURITY;
            ALTER TABLE public.usage_fold FORCE ROW LEVEL SECURITY;
            RETURN renumbered;
        END $$
    """)


def roll_up_later() -> None:
    """Queue every organization, after the instances of the previous release have ended: they would remove the items."""
    op.execute("ALTER TABLE usage_fold NO FORCE ROW LEVEL SECURITY")
    op.execute(
        "INSERT INTO job_queue (organization_id, kind, id, due_at)"
        f" SELECT organization_id, 'fold_usage', {NO_ITEM}, now() + interval '15 minutes' FROM usage_fold"
        " ON CONFLICT DO NOTHING"
    )
    op.execute("ALTER TABLE usage_fold FORCE ROW LEVEL SECURITY")


def normalize_scopes() -> None:
    """New events have normalized dimensions, which a scope that was stored as it was sent would not cover."""
    op.execute("ALTER TABLE spend_limit NO FORCE ROW LEVEL SECURITY")
    for column in ("scope_endpoint_id", "scope_feature"):  # model ids stay as they were sent
        normalized = f"normalize(btrim({column}, {WHITE_SPACE}), NFC)"
        op.execute(f"UPDATE spend_limit SET {column} = {normalized} WHERE {column} <> {normalized}")
    op.execute("ALTER TABLE spend_limit FORCE ROW LEVEL SECURITY")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    # The normalized scopes stay: the previous release accepts them.
    has_unfolded("folded_before")
    reset_watermarks(row_number=is_not_below("folded_before"), watermarks="folded_before = 1")
    op.drop_column("usage_fold", "wide_folded_before")
    op.drop_index("ix_usage_event_provider_request", "usage_event")
    for table in TABLES:
        op.drop_table(table)
