"""Add spend limits, reservations, and webhooks with their outbox.

Revision ID: 5d81c3e6a4f7
Revises: 7c1d0e5a9b42
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "5d81c3e6a4f7"
down_revision = "7c1d0e5a9b42"
branch_labels = None
depends_on = None

UUID = postgresql.UUID(as_uuid=True)
SUM = sa.Numeric(38, 0)

GRANTS = {
    "spend_limit": "SELECT, INSERT, UPDATE, DELETE",
    "spend_counter": "SELECT, INSERT, UPDATE, DELETE",
    "spend_alert": "SELECT, INSERT, DELETE",
    "spend_reservation": "SELECT, INSERT, UPDATE",
    "webhook_endpoint": "SELECT, INSERT, UPDATE, DELETE",
    "webhook_delivery": "SELECT, INSERT, UPDATE",
}
# Purges cross organizations, so they run as the owner, with nothing to be led astray by. Events reach 35 days back.
PURGES = {
    "purge_spend_reservations": "DELETE FROM public.spend_reservation WHERE ended_at < now() - interval '36 days'",
    "purge_webhook_deliveries": "DELETE FROM public.webhook_delivery WHERE ended_at < now() - interval '7 days'",
}


def instant(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=nullable)


def id_(name: str = "id") -> sa.Column[object]:
    return sa.Column(name, UUID, nullable=False)


def reference(table: str, column: str, to: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["organization_id", column],
        [f"{to}.organization_id", f"{to}.id"],
        name=op.f(f"fk_{table}_organization_id"),
        ondelete="CASCADE",
    )


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    create_limits()
    create_counters()
    create_reservations()
    create_webhooks()
    for table, grants in GRANTS.items():
        op.execute(f"GRANT {grants} ON {table} TO byok_service")
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY organization ON {table} TO byok_service "
            "USING (organization_id = current_setting('byok.org', true)) "
            "WITH CHECK (organization_id = current_setting('byok.org', true))"
        )
    for table in sorted(GRANTS.keys() - {"spend_reservation", "webhook_delivery"}):
        # Not of the two that the owner purges across organizations.
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    for name, statement in PURGES.items():
        op.execute(f"""
            CREATE FUNCTION {name}() RETURNS bigint
            LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
            AS $$ WITH gone AS ({statement} RETURNING 1) SELECT count(*) FROM gone $$
        """)
        op.execute(f"REVOKE ALL ON FUNCTION {name}() FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {name}() TO byok_service")


def create_limits() -> None:
    op.create_table(
        "spend_limit",
        text("organization_id"),
        id_(),
        text("name"),
        sa.Column("amount", sa.BigInteger, nullable=False),
        text("period"),
        text("scope_mode"),
        text("scope_model", nullable=True),
        text("scope_endpoint_id", nullable=True),
        text("scope_feature", nullable=True),
        text("enforcement"),
        sa.Column("thresholds", postgresql.ARRAY(sa.Integer), nullable=False),
        instant("counts_from"),
        sa.Column("revision", sa.Integer, nullable=False),
        instant("created_at"),
        text("created_by"),
        instant("updated_at"),
        sa.PrimaryKeyConstraint("organization_id", "id", name="pk_spend_limit"),
        sa.CheckConstraint("period IN ('day', 'month', 'total')", name=op.f("ck_spend_limit_period")),
        sa.CheckConstraint("scope_mode IN ('managed', 'byo', 'any')", name=op.f("ck_spend_limit_scope_mode")),
        sa.CheckConstraint("enforcement IN ('block', 'notify')", name=op.f("ck_spend_limit_enforcement")),
    )


def create_counters() -> None:
    op.create_table(
        "spend_counter",
        text("organization_id"),
        id_("limit_id"),
        instant("period_starts_at"),
        sa.Column("settled_managed", SUM, nullable=False),
        sa.Column("settled_byo", SUM, nullable=False),
        sa.Column("reserved", SUM, nullable=False),
        sa.Column("unpriced", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "limit_id", "period_starts_at", name="pk_spend_counter"),
        reference("spend_counter", "limit_id", "spend_limit"),
    )
    # Room on each page, so that the same counter can change again and again in place.
    op.execute("ALTER TABLE spend_counter SET (fillfactor = 50)")
    op.create_table(
        "spend_alert",
        text("organization_id"),
        id_("limit_id"),
        instant("period_starts_at"),
        sa.Column("threshold", sa.Integer, nullable=False),
        instant("crossed_at"),
        sa.Column("spent", SUM, nullable=False),
        sa.PrimaryKeyConstraint(
            "organization_id", "limit_id", "period_starts_at", "threshold", name="pk_spend_alert"
        ),
        reference("spend_alert", "limit_id", "spend_limit"),
    )


def create_reservations() -> None:
    op.create_table(
        "spend_reservation",
        text("organization_id"),
        id_(),
        sa.Column("amount", sa.BigInteger),
        text("mode"),
        text("model", nullable=True),
        text("endpoint_id", nullable=True),
        text("feature", nullable=True),
        text("state"),
        instant("created_at"),
        text("created_by"),
        instant("expires_at"),
        instant("ended_at", nullable=True),
        sa.PrimaryKeyConstraint("organization_id", "id", name="pk_spend_reservation"),
        sa.CheckConstraint("mode IN ('managed', 'byo')", name=op.f("ck_spend_reservation_mode")),
        sa.CheckConstraint(
            "state IN ('open', 'settled', 'released')", name=op.f("ck_spend_reservation_state")
        ),
    )
    op.create_index(
        "ix_spend_reservation_open",
        "spend_reservation",
        ["organization_id", "created_at"],
        postgresql_where=sa.text("state = 'open'"),
    )
    op.create_index(
        "ix_spend_reservation_ended",
        "spend_reservation",
        ["ended_at"],
        postgresql_where=sa.text("ended_at IS NOT NULL"),
    )


def create_webhooks() -> None:
    op.create_table(
        "webhook_endpoint",
        text("organization_id"),
        id_(),
        text("url"),
        text("state"),
        id_("intent_id"),
        instant("created_at"),
        text("created_by"),
        sa.PrimaryKeyConstraint("organization_id", "id", name="pk_webhook_endpoint"),
        sa.CheckConstraint(
            "state IN ('intent', 'active', 'abandoned', 'deleting')", name=op.f("ck_webhook_endpoint_state")
        ),
    )
    op.create_table(
        "webhook_delivery",
        text("organization_id"),
        id_(),
        id_("endpoint_id"),
        text("type"),
        text("body"),
        text("state"),
        sa.Column("attempts", sa.Integer, nullable=False),
        text("last_outcome", nullable=True),
        instant("created_at"),
        instant("ended_at", nullable=True),
        sa.PrimaryKeyConstraint("organization_id", "id", name="pk_webhook_delivery"),
        sa.CheckConstraint(
            "state IN ('pending', 'delivered', 'dead')", name=op.f("ck_webhook_delivery_state")
        ),
        reference("webhook_delivery", "endpoint_id", "webhook_endpoint"),
    )
    op.create_index("ix_webhook_delivery_endpoint", "webhook_delivery", ["organization_id", "endpoint_id"])
    op.create_index(
        "ix_webhook_delivery_ended",
        "webhook_delivery",
        ["ended_at"],
        postgresql_where=sa.text("ended_at IS NOT NULL"),
    )


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    for name in PURGES:
        op.execute(f"DROP FUNCTION {name}()")
    # What these kinds of items ask for is not known to the release before.
    op.execute("DELETE FROM job_queue WHERE kind IN ('settle_webhook', 'deliver_webhook')")
    for table in (
        "webhook_delivery",
        "webhook_endpoint",
        "spend_reservation",
        "spend_alert",
        "spend_counter",
    ):
        op.drop_table(table)
    op.drop_table("spend_limit")
