"""Add the unconfirmed invalid result of a valid key, and the version that a rotation replaced.

Revision ID: 9d41c7e2b805
Revises: 4e8a61c0d95b
"""

import sqlalchemy as sa
from alembic import op

revision = "9d41c7e2b805"
down_revision = "4e8a61c0d95b"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    # Without defaults: no row is rewritten. Rotations before this have no replaced version.
    op.add_column("credential_version", sa.Column("suspected_reason", sa.Text))
    op.add_column("credential_version", sa.Column("suspected_at", sa.DateTime(timezone=True)))
    op.create_check_constraint(
        op.f("ck_credential_version_suspicion"),
        "credential_version",
        "(suspected_reason IS NULL) = (suspected_at IS NULL)",
    )
    op.add_column("credential_rotation", sa.Column("replaced_key_version", sa.Integer))


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.drop_column("credential_rotation", "replaced_key_version")
    op.drop_constraint(op.f("ck_credential_version_suspicion"), "credential_version")
    op.drop_column("credential_version", "suspected_at")
    op.drop_column("credential_version", "suspected_reason")
