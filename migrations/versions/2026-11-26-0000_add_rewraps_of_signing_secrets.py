"""Let signing secrets be rewrapped: an endpoint notes at which number its secret lies.

Revision ID: 3fc8a15e7d92
Revises: d7a2e40b6c19
"""

import sqlalchemy as sa
from alembic import op

revision = "3fc8a15e7d92"
down_revision = "d7a2e40b6c19"
branch_labels = None
depends_on = None

KEYS = "SELECT DISTINCT c.organization_id, c.credential_id FROM public.fingerprint_claim c"
# Endpoints among them, by their ids: as in sealed_secret.
SECRETS = (
    f"{KEYS} UNION ALL SELECT e.organization_id, e.id FROM public.webhook_endpoint e WHERE e.state = 'active'"
)


def list_secrets(query: str) -> None:
    op.execute(f"""
        CREATE OR REPLACE FUNCTION credentials_with_keys()
        RETURNS TABLE (organization_id text, credential_id uuid)
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
        AS $$ {query} $$
    """)


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.add_column(
        "webhook_endpoint", sa.Column("store_version", sa.Integer, nullable=False, server_default="1")
    )
    # Null: the rewrap is of an endpoint's secret. The foreign key lets those be.
    op.alter_column("secret_rewrap", "key_version", nullable=True)
    # Its owner lists them, so he is not held to the policy.
    op.execute("ALTER TABLE webhook_endpoint NO FORCE ROW LEVEL SECURITY")
    list_secrets(SECRETS)


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    list_secrets(KEYS)
    op.execute("ALTER TABLE webhook_endpoint FORCE ROW LEVEL SECURITY")
    # To the release before, a secret lies at its first number, and a rewrap is of a key.
    op.execute("""
        DO $$ BEGIN
            IF EXISTS (SELECT 1 FROM webhook_endpoint WHERE store_version > 1) THEN
                RAISE EXCEPTION 'signing secrets were rewrapped: delete those endpoints first';
            END IF;
        END $$
    """)
    # The policy has no exception for the owner, who would delete nothing.
    op.execute("ALTER TABLE secret_rewrap NO FORCE ROW LEVEL SECURITY")
    op.execute("""
        DELETE FROM job_queue WHERE kind = 'settle_rewrap' AND (organization_id, id) IN (
            SELECT organization_id, intent_id FROM secret_rewrap WHERE key_version IS NULL)
    """)
    op.execute("DELETE FROM secret_rewrap WHERE key_version IS NULL")
    op.execute("ALTER TABLE secret_rewrap FORCE ROW LEVEL SECURITY")
    op.alter_column("secret_rewrap", "key_version", nullable=False)
    op.drop_column("webhook_endpoint", "store_version")
