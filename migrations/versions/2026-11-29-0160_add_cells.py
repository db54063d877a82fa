"""Add the directory of cells, and hold the deletion of audit events to their shortest retention.

Revision ID: c3d7e9a05b18
Revises: e83f5a1c9d47
"""

from alembic import op

revision = "c3d7e9a05b18"
down_revision = "e83f5a1c9d47"
branch_labels = None
depends_on = None

# Locks the organization's place in the directory shared: a move waits for this transaction, and this one for a move. The
# second statement sees what was committed while the first one waited. A transaction that may write lists a new
# organization; until then it has no rows, and every transaction arrives at the same cell for it.
ENTER = """
    CREATE FUNCTION cells.enter(cell text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        organization text := current_setting('byok.org');
        lives_in text;
    BEGIN
        -- Citus repeats the round trip that sets `byok.org` on the cell's worker, which has no directory.
        IF to_regclass('cells.organization_cell') IS NULL THEN
            RETURN;
        END IF;
        PERFORM pg_advisory_xact_lock_shared(hashtext('byok.cell'), hashtext(organization));
        SELECT o.cell INTO lives_in FROM cells.organization_cell o WHERE o.organization_id = organization;
        IF lives_in IS NULL THEN
            SELECT c.name INTO lives_in FROM cells.cell c WHERE c.takes_new
            ORDER BY hashtext(c.name || ' ' || organization), c.name LIMIT 1;
            lives_in := coalesce(lives_in, 'public');
            IF lives_in = cell AND current_setting('transaction_read_only') = 'off' THEN
                INSERT INTO cells.organization_cell VALUES (organization, lives_in) ON CONFLICT DO NOTHING;
                SELECT o.cell INTO lives_in FROM cells.organization_cell o WHERE o.organization_id = organization;
            END IF;
        END IF;
        IF lives_in IS DISTINCT FROM cell THEN
            RAISE EXCEPTION 'the organization lives in another cell'
            USING ERRCODE = 'BY001', DETAIL = lives_in;
        END IF;
    END $$
"""
# With cells, the owner sees the rows of the organization in `byok.org`, and the service may set that. So the policies no
# longer keep this function from audit events that are younger than the shortest retention; the function does it itself.
PURGE = """
    CREATE OR REPLACE FUNCTION purge_audit_events(older_than timestamptz, at_most integer) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        purged integer;
    BEGIN
        DELETE FROM public.audit_event WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM public.audit_event
            WHERE occurred_at < least(older_than, now() - interval '90 days') LIMIT at_most));
        GET DIAGNOSTICS purged = ROW_COUNT;
        RETURN purged;
    END $$
"""
# `create_cell` let the owner see the organization in `byok.org`.
SHUT_OWNER_OUT = """
    DO $$
    DECLARE
        guarded regclass;
    BEGIN
        FOR guarded IN
            SELECT p.polrelid::regclass FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
            WHERE c.relnamespace = 'public'::regnamespace AND p.polname = 'organization' AND p.polroles = '{0}'
            AND c.relname <> 'usage_fold'
        LOOP
            EXECUTE format('ALTER POLICY organization ON %s TO byok_service', guarded);
        END LOOP;
    END $$
"""
REFUSE_CELLS = """
    DO $$
    BEGIN
        IF EXISTS (SELECT FROM cells.cell WHERE name <> 'public') THEN
            RAISE EXCEPTION 'There are cells. Move their organizations to the first cell, and remove them';
        END IF;
    END $$
"""


def is_home() -> bool:
    """The directory is only in the database's first cell."""
    return op.get_context().opts.get("cell") is None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.execute(PURGE)
    if not is_home():
        return
    op.execute("CREATE SCHEMA cells")
    op.execute("""
        CREATE TABLE cells.cell (
            name text CONSTRAINT pk_cell PRIMARY KEY,
            takes_new boolean NOT NULL DEFAULT true,
            added_at timestamptz NOT NULL DEFAULT now())
    """)
    # With cells, an organization that is not listed has no rows.
    op.execute("""
        CREATE TABLE cells.organization_cell (
            organization_id text CONSTRAINT pk_organization_cell PRIMARY KEY,
            cell text NOT NULL CONSTRAINT fk_organization_cell_cell REFERENCES cells.cell)
    """)
    op.execute(ENTER)
    op.execute("REVOKE ALL ON FUNCTION cells.enter(text) FROM PUBLIC")
    op.execute("GRANT USAGE ON SCHEMA cells TO byok_service")
    op.execute("GRANT SELECT ON cells.cell TO byok_service")
    op.execute("GRANT EXECUTE ON FUNCTION cells.enter(text) TO byok_service")


def downgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    if is_home():
        op.execute(REFUSE_CELLS)
        op.execute("DROP SCHEMA cells CASCADE")
    op.execute(SHUT_OWNER_OUT)
