"""${message}

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}

Runs against a live service: take no lock for long, keep the previous release working, and
split destructive changes over two releases. The lock time-out below makes a blocked
migration fail instead of queueing every request behind it.
"""

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    ${downgrades if downgrades else "pass"}
