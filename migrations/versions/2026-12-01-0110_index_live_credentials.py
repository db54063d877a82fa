"""Find the credentials that are not deleted without reading the others, of which an organization may have any number.

Revision ID: c48a1f6d3e27
Revises: b27f4e8d1c60
"""

import sqlalchemy as sa
from alembic import op

revision = "c48a1f6d3e27"
down_revision = "b27f4e8d1c60"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.create_index(
        "ix_provider_credential_live",
        "provider_credential",
        ["organization_id", "id"],
        postgresql_where=sa.text("state NOT IN ('deleting', 'deleted')"),
    )


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.drop_index("ix_provider_credential_live", "provider_credential")
