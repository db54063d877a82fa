"""Add links to exports that a browser opens without a token, once.

Revision ID: e83f5a1c9d47
Revises: c1d94e7b6a02
"""

import sqlalchemy as sa
from alembic import op

revision = "e83f5a1c9d47"
down_revision = "c1d94e7b6a02"
branch_labels = None
depends_on = None

# Crosses organizations, so it runs as the owner.
PURGE = """
    CREATE FUNCTION purge_export_links() RETURNS bigint
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
        WITH gone AS (DELETE FROM public.export_link WHERE expires_at < now() RETURNING 1)
        SELECT count(*) FROM gone
    $$
"""


def text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False)


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.create_table(
        "export_link",
        text("organization_id"),
        sa.Column("code_digest", sa.LargeBinary, nullable=False),
        text("path"),
        text("query"),
        text("scope"),
        text("subject"),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "code_digest", name="pk_export_link"),
    )
    # Not under FORCE: the owner purges it across organizations.
    op.execute("GRANT SELECT, INSERT, DELETE ON export_link TO byok_service")
    op.execute("ALTER TABLE export_link ENABLE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY organization ON export_link TO byok_service "
        "USING (organization_id = current_setting('byok.org', true)) "
        "WITH CHECK (organization_id = current_setting('byok.org', true))"
    )
    op.execute(PURGE)
    op.execute("REVOKE ALL ON FUNCTION purge_export_links() FROM PUBLIC")
    op.execute("GRANT EXECUTE ON FUNCTION purge_export_links() TO byok_service")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.execute("DROP FUNCTION purge_export_links()")
    op.drop_table("export_link")
