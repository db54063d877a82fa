"""Add rotations and leases.

Revision ID: c41f7d90be55
Revises: 8f3b60c1d2aa
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "c41f7d90be55"
down_revision = "8f3b60c1d2aa"
branch_labels = None
depends_on = None

UUID = postgresql.UUID(as_uuid=True)


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.create_table(
        "credential_rotation",
        sa.Column("organization_id", sa.Text, nullable=False),
        sa.Column("id", UUID, nullable=False),
        sa.Column("credential_id", UUID, nullable=False),
        sa.Column("key_version", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("activate", sa.Text, nullable=False),
        sa.Column("destroy_previous", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("organization_id", "id", name="pk_credential_rotation"),
        sa.ForeignKeyConstraint(
            ["organization_id", "credential_id", "key_version"],
            [
                "credential_version.organization_id",
                "credential_version.credential_id",
                "credential_version.key_version",
            ],
            name=op.f("fk_credential_rotation_organization_id"),
        ),
        sa.CheckConstraint(
            "state IN ('pending', 'activated', 'rejected', 'cancelled')",
            name=op.f("ck_credential_rotation_state"),
        ),
        sa.CheckConstraint(
            "activate IN ('when_valid', 'immediately')", name=op.f("ck_credential_rotation_activate")
        ),
        sa.CheckConstraint(
            "destroy_previous IN ('after_retention', 'immediately')",
            name=op.f("ck_credential_rotation_destroy_previous"),
        ),
    )
    op.create_index(
        "uq_credential_rotation_version",
        "credential_rotation",
        ["organization_id", "credential_id", "key_version"],
        unique=True,
    )
    op.create_table(
        "credential_lease",
        sa.Column("organization_id", sa.Text, nullable=False),
        sa.Column("id", UUID, nullable=False),
        sa.Column("credential_id", UUID, nullable=False),
        sa.Column("key_version", sa.Integer, nullable=False),
        sa.Column("accessor", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "id", name="pk_credential_lease"),
        sa.ForeignKeyConstraint(
            ["organization_id", "credential_id", "key_version"],
            [
                "credential_version.organization_id",
                "credential_version.credential_id",
                "credential_version.key_version",
            ],
            name=op.f("fk_credential_lease_organization_id"),
        ),
    )
    op.create_index(
        "ix_credential_lease_version", "credential_lease", ["organization_id", "credential_id", "expires_at"]
    )
    op.execute("GRANT SELECT, INSERT, UPDATE ON credential_rotation TO byok_service")
    op.execute("GRANT SELECT, INSERT ON credential_lease TO byok_service")
    for table in ("credential_rotation", "credential_lease"):
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(
            f"CREATE POLICY organization ON {table} TO byok_service "
            "USING (organization_id = current_setting('byok.org', true)) "
            "WITH CHECK (organization_id = current_setting('byok.org', true))"
        )
    op.drop_constraint(op.f("ck_credential_validation_trigger"), "credential_validation")
    op.create_check_constraint(
        op.f("ck_credential_validation_trigger"),
        "credential_validation",
        "trigger IN ('save', 'request', 'schedule', 'rotation')",
    )


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.drop_constraint(op.f("ck_credential_validation_trigger"), "credential_validation")
    op.execute(
        "ALTER TABLE credential_validation ADD CONSTRAINT ck_credential_validation_trigger "
        "CHECK (trigger IN ('save', 'request', 'schedule')) NOT VALID"
    )
    op.drop_table("credential_lease")
    op.drop_table("credential_rotation")
