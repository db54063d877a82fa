"""Let the policy that guards mode changes use a function that Citus accepts in a DELETE.

Citus accepts no volatile function there. The time at which the statement began is as good: the service holds the
organization's ledger lock by then, so no event can be counted by a change that becomes active meanwhile.

Revision ID: d40b7e9c2a61
Revises: c3d7e9a05b18
"""

from alembic import op

revision = "d40b7e9c2a61"
down_revision = "c3d7e9a05b18"
branch_labels = None
depends_on = None


def upgrade() -> None:
    guard_with("statement_timestamp()")


def downgrade() -> None:
    guard_with("clock_timestamp()")


def guard_with(time: str) -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    op.execute(
        "ALTER POLICY only_what_is_to_come ON usage_mode_change"
        f" USING (is_scheduled AND effective_from > {time})"
    )
