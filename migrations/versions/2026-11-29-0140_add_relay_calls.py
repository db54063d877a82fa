"""Let open reservations keep the journal of relayed calls.

Revision ID: a5c8e1f47b20
Revises: b7e2c05d9f14
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "a5c8e1f47b20"
down_revision = "b7e2c05d9f14"
branch_labels = None
depends_on = None

# What a call is, and how far it got. Null for reservations that clients make. Only open calls have `last_seen_at`.
COLUMNS = (
    ("session_id", sa.Text()),
    ("prompt_id", sa.Text()),
    ("credential_id", postgresql.UUID(as_uuid=True)),
    ("key_version", sa.Integer()),
    ("input_estimate", sa.Integer()),
    ("last_seen_at", sa.DateTime(timezone=True)),
    ("usage_so_far", sa.Text()),
)
OF_VERSION = "state = 'open' AND credential_id IS NOT NULL"
OF_CALL = "state = 'open' AND last_seen_at IS NOT NULL"

# Reads as the caller, so row-level security applies. Without SET, so that PostgreSQL can inline it.
HAS_OPEN_CALLS = """
    CREATE FUNCTION has_open_calls(organization text, credential uuid, version integer) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN EXISTS (
        SELECT FROM public.spend_reservation r WHERE r.organization_id = organization
            AND r.credential_id = credential AND r.key_version = version AND r.state = 'open')
"""
# Crosses organizations, so it runs as the owner. It returns ids of organizations and no other data.
LOST_CALLS = """
    CREATE FUNCTION organizations_with_lost_calls(not_seen_since timestamptz, at_most integer) RETURNS SETOF text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT DISTINCT organization_id FROM public.spend_reservation
        WHERE state = 'open' AND last_seen_at < not_seen_since LIMIT at_most
    $$
"""
FUNCTIONS = {
    "has_open_calls(text, uuid, integer)": HAS_OPEN_CALLS,
    "organizations_with_lost_calls(timestamptz, integer)": LOST_CALLS,
}


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    for name, kind in COLUMNS:
        op.add_column("spend_reservation", sa.Column(name, kind))
    op.create_index(
        "ix_spend_reservation_version",
        "spend_reservation",
        ["organization_id", "credential_id", "key_version"],
        postgresql_where=sa.text(OF_VERSION),
    )
    op.create_index(
        "ix_spend_reservation_last_seen",
        "spend_reservation",
        ["last_seen_at"],
        postgresql_where=sa.text(OF_CALL),
    )
    for signature, definition in FUNCTIONS.items():
        op.execute(definition)
        op.execute(f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {signature} TO byok_service")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    for signature in FUNCTIONS:
        op.execute(f"DROP FUNCTION {signature}")
    for index in ("ix_spend_reservation_last_seen", "ix_spend_reservation_version"):
        op.drop_index(index, "spend_reservation")
    for name, _ in reversed(COLUMNS):
        op.drop_column("spend_reservation", name)
