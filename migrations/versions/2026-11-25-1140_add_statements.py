"""Add subscriptions, endpoint counts and statements; let a switch that is still to come be taken away.

Revision ID: b7d05e3a9c12
Revises: 5b1c7e94d2a8
"""

import sqlalchemy as sa
from alembic import op

revision = "b7d05e3a9c12"
down_revision = "5b1c7e94d2a8"
branch_labels = None
depends_on = None

PICO = sa.Numeric(38, 0)
COUNTERS = (
    "requests",
    "unpriced_requests",
    "uncached_input_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "cache_read_tokens",
    "output_tokens",
    "web_search_requests",
)
# What a closed statement says stands for good: no grant to change it.
GRANTS = {
    "subscription": "SELECT, INSERT, UPDATE",
    "endpoint_count": "SELECT, INSERT, UPDATE",
    "statement": "SELECT, INSERT",
    "statement_line": "SELECT, INSERT",
}


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    # Told apart, so that a clock that is set back makes no switch of the past look like one to come.
    op.add_column(
        "usage_mode_change", sa.Column("is_scheduled", sa.Boolean, nullable=False, server_default="false")
    )
    op.execute("GRANT DELETE ON usage_mode_change TO byok_service")
    op.execute(
        "CREATE POLICY only_what_is_to_come ON usage_mode_change AS RESTRICTIVE FOR DELETE TO byok_service "
        "USING (is_scheduled AND effective_from > clock_timestamp())"
    )
    create_subscription()
    create_statement()
    for table, privileges in GRANTS.items():
        op.execute(f"GRANT {privileges} ON {table} TO byok_service")
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY organization ON {table} TO byok_service "
            "USING (organization_id = current_setting('byok.org', true)) "
            "WITH CHECK (organization_id = current_setting('byok.org', true))"
        )


def create_subscription() -> None:
    op.create_table(
        "subscription",
        sa.Column("organization_id", sa.Text, nullable=False),
        sa.Column("plan", sa.Text, nullable=False),
        sa.Column("monthly_fee", sa.BigInteger, nullable=False),
        sa.Column("included_endpoints", sa.Integer, nullable=False),
        sa.Column("endpoint_overage_fee", sa.BigInteger, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_by", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("organization_id", name="pk_subscription"),
        sa.CheckConstraint(
            "monthly_fee >= 0 AND included_endpoints >= 0 AND endpoint_overage_fee >= 0",
            name=op.f("ck_subscription_not_negative"),
        ),
    )
    op.create_table(
        "endpoint_count",
        sa.Column("organization_id", sa.Text, nullable=False),
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("endpoints", sa.Integer, nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_by", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "day", name="pk_endpoint_count"),
        sa.CheckConstraint("endpoints >= 0", name=op.f("ck_endpoint_count_not_negative")),
    )


def create_statement() -> None:
    op.create_table(
        "statement",
        sa.Column("organization_id", sa.Text, nullable=False),
        sa.Column("month", sa.Date, nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closed_by", sa.Text, nullable=False),
        sa.Column("total", PICO, nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "month", name="pk_statement"),
        sa.CheckConstraint("extract(day FROM month) = 1", name=op.f("ck_statement_first_day")),
    )
    op.create_table(
        "statement_line",
        sa.Column("organization_id", sa.Text, nullable=False),
        sa.Column("month", sa.Date, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("mode", sa.Text),
        sa.Column("model", sa.Text),
        sa.Column("adjusts_month", sa.Date),
        sa.Column("quantity", sa.BigInteger, nullable=False),
        sa.Column("unit_price", sa.BigInteger),
        sa.Column("exact", PICO, nullable=False),
        sa.Column("amount", PICO, nullable=False),
        sa.Column("estimated", PICO, nullable=False),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in COUNTERS),
        sa.PrimaryKeyConstraint("organization_id", "month", "position", name="pk_statement_line"),
        sa.ForeignKeyConstraint(
            ["organization_id", "month"],
            ["statement.organization_id", "statement.month"],
            name=op.f("fk_statement_line_organization_id"),
        ),
        sa.CheckConstraint(
            "type IN ('subscription', 'endpoint_overage', 'managed_usage', 'adjustment', 'byo_usage')",
            name=op.f("ck_statement_line_type"),
        ),
        sa.CheckConstraint(
            "CASE type WHEN 'byo_usage' THEN mode IS NOT DISTINCT FROM 'byo'"
            " WHEN 'managed_usage' THEN mode IS NOT DISTINCT FROM 'managed'"
            " WHEN 'adjustment' THEN mode IS NOT DISTINCT FROM 'managed'"
            " ELSE mode IS NULL END",
            name=op.f("ck_statement_line_mode_of_type"),
        ),
        sa.CheckConstraint(
            "mode IS DISTINCT FROM 'byo' OR (exact = 0 AND amount = 0)",
            name=op.f("ck_statement_line_byo_is_never_billed"),
        ),
        sa.CheckConstraint(
            "(mode IS NULL) = (model IS NULL)", name=op.f("ck_statement_line_usage_names_a_model")
        ),
        sa.CheckConstraint(
            "CASE type WHEN 'adjustment' THEN adjusts_month IS NOT NULL AND adjusts_month < month"
            " WHEN 'byo_usage' THEN adjusts_month IS NULL OR adjusts_month < month"
            " ELSE adjusts_month IS NULL END",
            name=op.f("ck_statement_line_adjusts_an_earlier_month"),
        ),
    )


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    for table in ("statement_line", "statement", "endpoint_count", "subscription"):
        op.drop_table(table)
    op.execute("DROP POLICY only_what_is_to_come ON usage_mode_change")
    op.execute("REVOKE DELETE ON usage_mode_change FROM byok_service")
    # The previous release cannot take a switch to come away, and puts every later one behind it.
    op.execute("ALTER TABLE usage_mode_change NO FORCE ROW LEVEL SECURITY")
    op.execute("DELETE FROM usage_mode_change WHERE is_scheduled AND effective_from > clock_timestamp()")
    op.execute("ALTER TABLE usage_mode_change FORCE ROW LEVEL SECURITY")
    op.drop_column("usage_mode_change", "is_scheduled")
