"""Add organizations' own prices.

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


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.drop_table("price_override")
    op.drop_table("price_override_list")
