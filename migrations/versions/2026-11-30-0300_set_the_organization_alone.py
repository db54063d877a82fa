"""Let a function set the organization and the search path, so that Citus repeats nothing else on a cell's worker.

There, Citus repeats the whole text that contains a `SET LOCAL`. If the function contains it, that text is short, and the
worker need not run what else begins a transaction.

Revision ID: 5e17c0a4b9d2
Revises: 8a41f6d20c95
"""

from alembic import op

revision = "5e17c0a4b9d2"
down_revision = "8a41f6d20c95"
branch_labels = None
depends_on = None

# One text, and only one SET in it, because Citus repeats the text for each of them. Statements that run on the worker look
# tables up in its search path too. With the caller's privileges: the other function has those of the owner.
ENTER = """
    CREATE FUNCTION cells.enter(organization text, cell text) RETURNS void
    LANGUAGE plpgsql
    AS $$
    BEGIN
        EXECUTE pg_catalog.format('SET LOCAL byok.org = %L; SELECT pg_catalog.set_config(''search_path'', %L, true)',
            organization, cell);
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
