"""Delete expired rows in batches: those of one organization may be more than one statement can delete before its timeout.

The functions without a parameter stay for instances of the earlier release.

Revision ID: b27f4e8d1c60
Revises: 5e17c0a4b9d2
"""

from alembic import op

revision = "b27f4e8d1c60"
down_revision = "5e17c0a4b9d2"
branch_labels = None
depends_on = None

# Each table with the condition of its rows that have expired, as in the functions without a parameter.
PURGES = {
    "purge_idempotency_keys": ("idempotency_key", "expires_at < now()"),
    "purge_rate_counters": ("rate_counter", "minute < now() - interval '10 minutes'"),
    "purge_spend_reservations": ("spend_reservation", "ended_at < now() - interval '36 days'"),
    "purge_webhook_deliveries": ("webhook_delivery", "ended_at < now() - interval '7 days'"),
    "purge_export_links": ("export_link", "expires_at < now()"),
}


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    for name, (table, has_expired) in PURGES.items():
        op.execute(f"""
            CREATE FUNCTION {name}(at_most integer) RETURNS integer
            LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
            AS $$
            DECLARE
                purged integer;
            BEGIN
                -- Locked and checked again, because a row may be renewed meanwhile.
                DELETE FROM public.{table} WHERE {has_expired} AND ctid = ANY (ARRAY(
                    SELECT ctid FROM public.{table} WHERE {has_expired} LIMIT at_most FOR UPDATE SKIP LOCKED));
                GET DIAGNOSTICS purged = ROW_COUNT;
                RETURN purged;
            END $$
        """)
        op.execute(f"REVOKE ALL ON FUNCTION {name}(integer) FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {name}(integer) TO byok_service")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    for name in PURGES:
        op.execute(f"DROP FUNCTION {name}(integer)")
