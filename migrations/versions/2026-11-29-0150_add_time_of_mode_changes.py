"""Record when a change of the usage mode was requested, and queue the notifications of scheduled changes.

Revision ID: c1d94e7b6a02
Revises: a5c8e1f47b20
"""

import sqlalchemy as sa
from alembic import op

revision = "c1d94e7b6a02"
down_revision = "a5c8e1f47b20"
branch_labels = None
depends_on = None

# As `app.usage_mode.notifications`: the id of an item is the time of its change, in microseconds from 1970.
QUEUE_SCHEDULED = """
    INSERT INTO job_queue (organization_id, kind, id, due_at)
    SELECT organization_id, 'notify_usage_mode',
        lpad(to_hex((extract(epoch FROM effective_from) * 1000000)::bigint), 32, '0')::uuid, effective_from
    FROM usage_mode_change
    WHERE is_scheduled AND effective_from > clock_timestamp()
    ON CONFLICT DO NOTHING
"""


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    # Null for the rows of today: when they were requested is unknown. The default also fills rows of the previous release.
    op.add_column("usage_mode_change", sa.Column("changed_at", sa.DateTime(timezone=True)))
    op.alter_column("usage_mode_change", "changed_at", server_default=sa.text("now()"))
    # The policy binds the owner too. The transaction holds the table's lock, so no other transaction sees it lifted.
    op.execute("ALTER TABLE usage_mode_change NO FORCE ROW LEVEL SECURITY")
    op.execute(QUEUE_SCHEDULED)
    op.execute("ALTER TABLE usage_mode_change FORCE ROW LEVEL SECURITY")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.execute("DELETE FROM job_queue WHERE kind = 'notify_usage_mode'")
    op.drop_column("usage_mode_change", "changed_at")
