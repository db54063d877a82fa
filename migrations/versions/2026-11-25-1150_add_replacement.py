"""Note when a key version was replaced and until when leases of it run.

Revision ID: 6b9e02d4c7f1
Revises: b7d05e3a9c12
"""

import sqlalchemy as sa
from alembic import op

revision = "6b9e02d4c7f1"
down_revision = "b7d05e3a9c12"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    # Without a default: nothing is rewritten. Versions replaced before stay without an instant.
    op.add_column("credential_version", sa.Column("replaced_at", sa.DateTime(timezone=True)))
    op.add_column("credential_version", sa.Column("leased_until", sa.DateTime(timezone=True)))


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.drop_column("credential_version", "leased_until")
    op.drop_column("credential_version", "replaced_at")
