"""Let a function set the organization when a transaction enters its cell, so that Citus repeats nothing else on a worker.

On the cell's worker, Citus repeats the whole text that contains a `SET LOCAL`. If the function contains it, that text is only
this statement, and the worker need not run what else begins a transaction.

Revision ID: 5e17c0a4b9d2
Revises: 8a41f6d20c95
"""

from alembic import op

revision = "5e17c0a4b9d2"
down_revision = "8a41f6d20c95"
branch_labels = None
depends_on = None

# With the caller's privileges: the other function has those of the owner.
ENTER = """
    CREATE FUNCTION cells.enter(organization text, cell text) RETURNS void
    LANGUAGE plpgsql
    AS $$
    BEGIN
        EXECUTE pg_catalog.format('SET LOCAL byok.org = %L', organization);
        PERFORM cells.enter(cell);
    END $$
"""


def is_home() -> bool:
    """The directory is only in the database's first cell."""
    return op.get_context().opts.get("cell") is None


def upgrade() -> None:
    if not is_home():
        return
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.execute(ENTER)
    op.execute("REVOKE ALL ON FUNCTION cells.enter(text, text) FROM PUBLIC")
    op.execute("GRANT EXECUTE ON FUNCTION cells.enter(text, text) TO byok_service")


def downgrade() -> None:
    if is_home():
        op.execute("SET LOCAL lock_timeout = '3s'")
        op.execute("DROP FUNCTION cells.enter(text, text)")
