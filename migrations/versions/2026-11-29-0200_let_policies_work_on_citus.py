"""Guard mode changes with policies that Citus passes on to workers as they are.

Citus creates a restrictive policy on workers as a permissive one, so a DELETE without a condition would reach rows of other
organizations. So the policy for DELETE has both conditions. It has no volatile function, which Citus does not accept there:
the service holds the organization's ledger lock before the statement begins, so no event can be counted by a change that
becomes active meanwhile. A move between cells sets `byok.moves`, because it deletes all changes where they were.

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


def upgrade() -> None:
    replace(BEFORE, POLICIES)


def downgrade() -> None:
    replace(POLICIES, BEFORE)


def replace(old: dict[str, str], new: dict[str, str]) -> None:
    """With cells, `app.database.migrations` then lets the owner in, as after every migration."""
    op.execute("SET LOCAL lock_timeout = '3s'")
    for name in old:
        op.execute(f"DROP POLICY {name} ON usage_mode_change")
    for name, definition in new.items():
        op.execute(f"CREATE POLICY {name} ON usage_mode_change {definition}")
