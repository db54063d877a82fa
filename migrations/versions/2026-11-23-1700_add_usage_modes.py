"""Add the timeline of usage modes, and what periodic checks of keys need.

Revision ID: 8f3b60c1d2aa
Revises: 5d1c2a7e9b04
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "8f3b60c1d2aa"
down_revision = "5d1c2a7e9b04"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.create_table(
        "usage_mode_change",
        sa.Column("organization_id", sa.Text, nullable=False),
        sa.Column("effective_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("credential_id", postgresql.UUID(as_uuid=True)),
        sa.Column("changed_by", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "effective_from", name="pk_usage_mode_change"),
        sa.ForeignKeyConstraint(
            ["organization_id", "credential_id"],
            ["provider_credential.organization_id", "provider_credential.id"],
            name=op.f("fk_usage_mode_change_organization_id"),
        ),
        sa.CheckConstraint("mode IN ('managed', 'byo')", name=op.f("ck_usage_mode_change_mode")),
        sa.CheckConstraint(
            "mode = 'byo' OR credential_id IS NULL",
            name=op.f("ck_usage_mode_change_managed_names_no_credential"),
        ),
    )
    # History is for good: the service may add points, not change them.
    op.execute("GRANT SELECT, INSERT ON usage_mode_change TO byok_service")
    op.execute("ALTER TABLE usage_mode_change ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE usage_mode_change FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY organization ON usage_mode_change TO byok_service "
        "USING (organization_id = current_setting('byok.org', true)) "
        "WITH CHECK (organization_id = current_setting('byok.org', true))"
    )
    op.add_column(
        "credential_version",
        sa.Column("indeterminate_streak", sa.Integer, nullable=False, server_default="0"),
    )
    op.drop_constraint(op.f("ck_credential_validation_trigger"), "credential_validation")
    op.create_check_constraint(
        op.f("ck_credential_validation_trigger"),
        "credential_validation",
        "trigger IN ('save', 'request', 'schedule')",
    )


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.drop_constraint(op.f("ck_credential_validation_trigger"), "credential_validation")
    # Keeps the rows that this version wrote; only new ones are held to the older list.
    op.execute(
        "ALTER TABLE credential_validation ADD CONSTRAINT ck_credential_validation_trigger "
        "CHECK (trigger IN ('save', 'request')) NOT VALID"
    )
    op.drop_column("credential_version", "indeterminate_streak")
    op.drop_table("usage_mode_change")
