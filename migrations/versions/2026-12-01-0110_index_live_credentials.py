"""Find credentials that are not deleted, and pending webhook deliveries, without reading the others.

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
    op.create_index(
        "ix_webhook_delivery_pending",
        "webhook_delivery",
        ["organization_id", "endpoint_id"],
        postgresql_where=sa.text("state = 'pending'"),
    )


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.drop_index("ix_webhook_delivery_pending", "webhook_delivery")
    op.drop_index("ix_provider_credential_live", "provider_credential")
