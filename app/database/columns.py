"""Shared table definitions: the naming convention and column helpers. `organization_id` leads every key."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

UUID = postgresql.UUID(as_uuid=True)
JSONB = postgresql.JSONB()


def organization() -> sa.Column[str]:
    """`organization_id`, the first column of every table and key: the unit of isolation and of sharding."""
    return sa.Column("organization_id", sa.Text, primary_key=True)


def instant(name: str, *, nullable: bool = False, **options: Any) -> sa.Column[Any]:
    """A timestamp with time zone."""
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable, **options)


def one_of(column: str, *values: str) -> sa.CheckConstraint:
    """A check constraint: the column holds one of these values."""
    listed = ", ".join(f"'{value}'" for value in values)
    return sa.CheckConstraint(f"{column} IN ({listed})", name=column)
