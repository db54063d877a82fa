"""Let the owner delete audit events after their retention, and never younger ones.

Revision ID: 7d03b5f2a918
Revises: 8d3f5b7021ce
"""

from alembic import op

revision = "7d03b5f2a918"
down_revision = "8d3f5b7021ce"
branch_labels = None
depends_on = None

# The shortest retention that can be set. The policies hold the owner to it, so its function cannot delete younger rows,
# whatever it is called with.
SHORTEST = "occurred_at < now() - interval '90 days'"


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    # Rows arrive in the order of this column, so a BRIN index finds old ones and takes almost no space.
    op.create_index("ix_audit_event_occurred_at", "audit_event", ["occurred_at"], postgresql_using="brin")
    for command in ("SELECT", "DELETE"):
        op.execute(
            f"CREATE POLICY retention_{command.lower()} ON audit_event FOR {command} TO CURRENT_USER USING ({SHORTEST})"
        )
    op.execute("""
        CREATE FUNCTION purge_audit_events(older_than timestamptz, at_most integer) RETURNS integer
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
        AS $$
        DECLARE
            purged integer;
        BEGIN
            DELETE FROM public.audit_event WHERE ctid = ANY (ARRAY(
                SELECT ctid FROM public.audit_event WHERE occurred_at < older_than LIMIT at_most));
            GET DIAGNOSTICS purged = ROW_COUNT;
            RETURN purged;
        END $$
    """)
    op.execute("REVOKE ALL ON FUNCTION purge_audit_events(timestamptz, integer) FROM PUBLIC")
    op.execute("GRANT EXECUTE ON FUNCTION purge_audit_events(timestamptz, integer) TO byok_service")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.execute("DROP FUNCTION purge_audit_events(timestamptz, integer)")
    for command in ("select", "delete"):
        op.execute(f"DROP POLICY retention_{command} ON audit_event")
    op.drop_index("ix_audit_event_occurred_at", "audit_event")
