"""Let `reserve_spend` keep its plans. By default PostgreSQL plans some of its statements again at every call.

A plan for one reservation is also good for a hundred: all tables are read by their keys. Only in the first cell, because
Citus cannot keep all these plans ("could not create distributed plan").

Revision ID: a91c5e70d4b8
Revises: d40b7e9c2a61
"""

from alembic import op

revision = "a91c5e70d4b8"
down_revision = "d40b7e9c2a61"
branch_labels = None
depends_on = None

RESERVE_SPEND = (
    "reserve_spend(text, uuid[], bigint[], bigint[], text[], text[], text[], text[], integer[], timestamptz)"
)


def upgrade() -> None:
    change("SET plan_cache_mode = force_generic_plan")


def downgrade() -> None:
    change("RESET plan_cache_mode")


def change(setting: str) -> None:
    if op.get_context().opts.get("cell") is None:
        op.execute("SET LOCAL lock_timeout = '3s'")
        op.execute(f"ALTER FUNCTION {RESERVE_SPEND} {setting}")
