"""Let the owner of the tables do what only a superuser could: read the rollup watermarks during retention.

Revision ID: 8d3f5b7021ce
Revises: 91d4f0a7c2e6
"""

from alembic import op

revision = "8d3f5b7021ce"
down_revision = "91d4f0a7c2e6"
branch_labels = None
depends_on = None

SIGNATURE = "has_unfolded_usage(partition_name name)"


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    # Before, a superuser created this function with `SET byok.org`, which the owner may not. Now it restores the setting
    # itself. Databases that ran the corrected revision 4e8a61c0d95b already have this text.
    op.execute(f"""
        CREATE OR REPLACE FUNCTION {SIGNATURE} RETURNS boolean
        LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp
        AS $$
        DECLARE
            caller_organization text := coalesce(current_setting('byok.org', true), '');
            waiting record;
            watermark bigint;
            is_there boolean := false;
        BEGIN
            FOR waiting IN SELECT organization_id FROM public.job_queue WHERE kind = 'fold_usage' LOOP
                PERFORM set_config('byok.org', waiting.organization_id, true);
                SELECT folded_before INTO watermark FROM public.usage_fold
                WHERE organization_id = waiting.organization_id;
                EXECUTE format(
                    'SELECT EXISTS (SELECT FROM public.%I WHERE organization_id = $1 AND ingest_xid >= $2)', partition_name
                ) INTO is_there USING waiting.organization_id, coalesce(watermark, 0);
                EXIT WHEN is_there;
            END LOOP;
            PERFORM set_config('byok.org', caller_organization, true);
            RETURN is_there;
        END $$
    """)
    # Row-level security binds the owner too, and no policy let it see a watermark: every month of an organization with
    # unaggregated rows was kept. Now the same policy applies to every role; the grants say which roles those are.
    op.execute("ALTER POLICY organization ON usage_fold TO PUBLIC")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.execute("ALTER POLICY organization ON usage_fold TO byok_service")
