"""Add what rotating the root key, moving to Vault and rewrapping need.

Revision ID: d7a2e40b6c19
Revises: 6b9e02d4c7f1
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "d7a2e40b6c19"
down_revision = "6b9e02d4c7f1"
branch_labels = None
depends_on = None

UUID = postgresql.UUID(as_uuid=True)

# Names of credentials across organizations, and nothing else: what an operator's command has to look at.
LISTS = {
    "sealed_credentials(root bytea, after_organization text, after_credential uuid, at_most int)": """
        SELECT s.organization_id, s.credential_id FROM public.sealed_secret s
        WHERE s.sealed IS NOT NULL AND pg_catalog.substring(s.sealed, 2, 4) IS DISTINCT FROM root
          AND (s.organization_id, s.credential_id) > (after_organization, after_credential)
        GROUP BY 1, 2 ORDER BY 1, 2 LIMIT at_most
    """,
    # -infinity: there may be a copy, and none was checked.
    "unmoved_credentials(after_organization text, after_credential uuid, at_most int)": """
        SELECT s.organization_id, s.credential_id FROM public.sealed_secret s
        WHERE (s.moved_at = '-infinity' OR (s.moved_at IS NULL AND s.sealed IS NOT NULL))
          AND (s.organization_id, s.credential_id) > (after_organization, after_credential)
        GROUP BY 1, 2 ORDER BY 1, 2 LIMIT at_most
    """,
    "moved_credentials(after_organization text, after_credential uuid, at_most int)": """
        SELECT s.organization_id, s.credential_id FROM public.sealed_secret s
        WHERE s.moved_at > '-infinity'
          AND (s.organization_id, s.credential_id) > (after_organization, after_credential)
        GROUP BY 1, 2 ORDER BY 1, 2 LIMIT at_most
    """,
    "credentials_with_keys()": """
        SELECT DISTINCT c.organization_id, c.credential_id FROM public.fingerprint_claim c
    """,
}
# Their owner lists them, so he is not held to the policies of these two.
LISTED = ("sealed_secret", "fingerprint_claim")


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.add_column("sealing_keyset", sa.Column("root_id", sa.Text))
    op.add_column("sealing_keyset", sa.Column("moving_to", sa.Text))
    op.execute("GRANT UPDATE ON sealing_keyset TO byok_service")
    op.add_column("sealed_secret", sa.Column("moved_at", sa.DateTime(timezone=True)))
    for table in LISTED:
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
    for signature, query in LISTS.items():
        op.execute(f"""
            CREATE FUNCTION {signature} RETURNS TABLE (organization_id text, credential_id uuid)
            LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
            AS $$ {query} $$
        """)
        name = signature.partition("(")[0]
        op.execute(f"REVOKE ALL ON FUNCTION {name} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {name} TO byok_service")
    create_rewraps()


def create_rewraps() -> None:
    op.create_table(
        "secret_rewrap",
        sa.Column("organization_id", sa.Text, nullable=False),
        sa.Column("intent_id", UUID, nullable=False),
        sa.Column("credential_id", UUID, nullable=False),
        sa.Column("key_version", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("from_store_version", sa.Integer, nullable=False),
        sa.Column("expected_store_version", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("organization_id", "intent_id", name="pk_secret_rewrap"),
        sa.ForeignKeyConstraint(
            ["organization_id", "credential_id", "key_version"],
            [
                "credential_version.organization_id",
                "credential_version.credential_id",
                "credential_version.key_version",
            ],
            name=op.f("fk_secret_rewrap_organization_id"),
        ),
        sa.CheckConstraint("state IN ('intent', 'abandoned', 'moved')", name=op.f("ck_secret_rewrap_state")),
    )
    op.create_index(
        "uq_secret_rewrap_credential", "secret_rewrap", ["organization_id", "credential_id"], unique=True
    )
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON secret_rewrap TO byok_service")
    op.execute("ALTER TABLE secret_rewrap ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE secret_rewrap FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY organization ON secret_rewrap TO byok_service "
        "USING (organization_id = current_setting('byok.org', true)) "
        "WITH CHECK (organization_id = current_setting('byok.org', true))"
    )


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.drop_table("secret_rewrap")
    for signature in LISTS:
        op.execute(f"DROP FUNCTION {signature.partition('(')[0]}")
    for table in LISTED:
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.drop_column("sealed_secret", "moved_at")
    op.execute("REVOKE UPDATE ON sealing_keyset FROM byok_service")
    op.drop_column("sealing_keyset", "moving_to")
    op.drop_column("sealing_keyset", "root_id")
