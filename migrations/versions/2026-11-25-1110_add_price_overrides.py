"""Add organizations' own prices, and what a back-fill of prices reads.

Revision ID: b7d20c5e8f13
Revises: e2a94b7f1c60
"""

import sqlalchemy as sa
from alembic import op

revision = "b7d20c5e8f13"
down_revision = "e2a94b7f1c60"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.create_table(
        "price_override_list",
        sa.Column("organization_id", sa.Text, nullable=False),
        sa.Column("number", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("effective_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "number", name="pk_price_override_list"),
        sa.CheckConstraint(
            "effective_from >= created_at", name=op.f("ck_price_override_list_never_in_the_past")
        ),
    )
    op.create_table(
        "price_override",
        sa.Column("organization_id", sa.Text, nullable=False),
        sa.Column("number", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("uncached_input", sa.BigInteger, nullable=False),
        sa.Column("cache_write_5m", sa.BigInteger),
        sa.Column("cache_write_1h", sa.BigInteger),
        sa.Column("cache_read", sa.BigInteger),
        sa.Column("output", sa.BigInteger, nullable=False),
        sa.Column("web_search", sa.BigInteger),
        sa.PrimaryKeyConstraint("organization_id", "number", "model", name="pk_price_override"),
        sa.ForeignKeyConstraint(
            ["organization_id", "number"],
            ["price_override_list.organization_id", "price_override_list.number"],
            name=op.f("fk_price_override_organization_id"),
        ),
        sa.CheckConstraint(
            "least(uncached_input, cache_write_5m, cache_write_1h, cache_read, output, web_search) >= 0",
            name=op.f("ck_price_override_not_negative"),
        ),
    )
    for table in ("price_override_list", "price_override"):
        # History is for good: the service may add lists, not change them.
        op.execute(f"GRANT SELECT, INSERT ON {table} TO byok_service")
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY organization ON {table} TO byok_service "
            "USING (organization_id = current_setting('byok.org', true)) "
            "WITH CHECK (organization_id = current_setting('byok.org', true))"
        )
    op.create_index(
        "ix_usage_event_unpriced",
        "usage_event",
        ["organization_id", "started_at", "event_id"],
        postgresql_where=sa.text("cost IS NULL"),
    )
    create_list_of_organizations()


def create_list_of_organizations() -> None:
    """Crosses organizations, so it runs as the owner. It leaps from one to the next, whatever their rows.

    It reads the keys: the ledger itself keeps its rows even from its owner.
    """
    op.execute("""
        CREATE FUNCTION usage_organizations(after text, at_most integer) RETURNS SETOF text
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
        AS $$
            WITH RECURSIVE found (organization_id) AS (
                (SELECT organization_id FROM public.usage_event_key WHERE organization_id > after
                 ORDER BY organization_id LIMIT 1)
                UNION ALL
                SELECT (SELECT next.organization_id FROM public.usage_event_key next
                        WHERE next.organization_id > found.organization_id
                        ORDER BY next.organization_id LIMIT 1)
                FROM found WHERE found.organization_id IS NOT NULL
            )
            SELECT organization_id FROM found WHERE organization_id IS NOT NULL LIMIT at_most
        $$
    """)
    op.execute("REVOKE ALL ON FUNCTION usage_organizations(text, integer) FROM PUBLIC")
    op.execute("GRANT EXECUTE ON FUNCTION usage_organizations(text, integer) TO byok_service")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.execute("DROP FUNCTION usage_organizations(text, integer)")
    op.drop_index("ix_usage_event_unpriced", "usage_event")
    op.drop_table("price_override")
    op.drop_table("price_override_list")
