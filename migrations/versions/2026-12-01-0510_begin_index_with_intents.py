"""Find key versions by their primary key, whatever the statistics.

While PostgreSQL's statistics are from before an organization had rows, it expects no more than one row of it. Then all indexes
that begin with the organization cost the same, and each search for one version, also by the check of a foreign key, read all
versions of the organization with the index of intents.

Revision ID: f3b80d5a92c6
Revises: c48a1f6d3e27
"""

from alembic import op

revision = "f3b80d5a92c6"
down_revision = "c48a1f6d3e27"
branch_labels = None
depends_on = None

INDEX, TABLE = "uq_credential_version_intent", "credential_version"


def upgrade() -> None:
    replace("intent_id", "organization_id")


def downgrade() -> None:
    replace("organization_id", "intent_id")


def replace(*columns: str) -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.drop_index(INDEX, TABLE)
    op.create_index(INDEX, TABLE, columns, unique=True)
