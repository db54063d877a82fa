"""Guard mode changes with policies that Citus passes on to workers as they are.

Citus creates a restrictive policy on workers as a permissive one, so a DELETE without a condition would reach rows of other
organizations. So the policy for DELETE has both conditions. It has no volatile function, which Citus does not accept there:
the service holds the organization's ledger lock before the statement begins, so no event can be counted by a change that
becomes active meanwhile. A move between cells sets `byok.moves`, because it deletes all changes where they were.

Also let every new reserved organization live in the first cell: all customers depend on some of them, and a cell on a worker is
down while that worker is.

Revision ID: d40b7e9c2a61
Revises: c3d7e9a05b18
"""

from alembic import op

revision = "d40b7e9c2a61"
down_revision = "c3d7e9a05b18"
branch_labels = None
depends_on = None

IS_OWN = "organization_id = current_setting('byok.org', true)"
POLICIES = {
    "organization": f"FOR SELECT TO byok_service USING ({IS_OWN})",
    "organization_insert": f"FOR INSERT TO byok_service WITH CHECK ({IS_OWN})",
    "organization_delete": f"FOR DELETE TO byok_service USING ({IS_OWN}"
    " AND (is_scheduled AND effective_from > statement_timestamp() OR current_setting('byok.moves', true) = 'on'))",
}
BEFORE = {
    "organization": f"TO byok_service USING ({IS_OWN}) WITH CHECK ({IS_OWN})",
    "only_what_is_to_come": "AS RESTRICTIVE FOR DELETE TO byok_service"
    " USING (is_scheduled AND effective_from > clock_timestamp())",
}
# As in the migration that adds the directory, but for `{choice}`.
ENTER = """
    CREATE OR REPLACE FUNCTION cells.enter(cell text) RETURNS void
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
            {choice}
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
CHOOSE_BEFORE = """SELECT c.name INTO lives_in FROM cells.cell c WHERE c.takes_new
            ORDER BY hashtext(c.name || ' ' || organization), c.name LIMIT 1;"""
# The ids of reserved organizations begin with an underscore.
CHOOSE = f"""IF left(organization, 1) <> '_' THEN
            {CHOOSE_BEFORE}
            END IF;"""


def upgrade() -> None:
    replace(BEFORE, POLICIES)
    choose(CHOOSE)


def downgrade() -> None:
    replace(POLICIES, BEFORE)
    choose(CHOOSE_BEFORE)


def choose(choice: str) -> None:
    """Set how `cells.enter` chooses the cell of a new organization. It is only in the database's first cell."""
    if op.get_context().opts.get("cell") is None:
        op.execute(ENTER.format(choice=choice))


def replace(old: dict[str, str], new: dict[str, str]) -> None:
    """With cells, `app.database.migrations` then lets the owner in, as after every migration."""
    op.execute("SET LOCAL lock_timeout = '3s'")
    for name in old:
        op.execute(f"DROP POLICY {name} ON usage_mode_change")
    for name, definition in new.items():
        op.execute(f"CREATE POLICY {name} ON usage_mode_change {definition}")
