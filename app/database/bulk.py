"""Bulk parameters: one array per column, so that a batch of a thousand rows is one round trip.

The driver inspects every element of an array. A value that all rows of a batch share is therefore sent once.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY


def unnest(**types: Any) -> sa.TableValuedAlias:
    """The batch as a table with these columns. `bulk_params` binds its values."""
    params = (sa.bindparam(f"{name}_of_all", type_=ARRAY(kind)) for name, kind in types.items())
    columns = (sa.column(name, kind) for name, kind in types.items())
    return sa.func.unnest(*params).table_valued(*columns, name="given").render_derived()


def found_for_each(rows: sa.Select[Any], name: str) -> sa.FromClause:
    """Search rows once for each row of the tables beside them, by the index of their condition.

    OFFSET 0 keeps it a subquery. As a join, PostgreSQL compares each row with each if it expects only one, which it does
    for all rows of an organization while its statistics are from before the organization had any.

    Then also all indexes that begin with the organization cost the same. If the table has several, compare its organization
    with a column of the tables beside (`organization_row`), whose value is not known when PostgreSQL estimates the rows.
    """
    return rows.offset(sa.literal_column("0")).lateral(name)


def organization_row() -> sa.Subquery:
    """The organization as a row, of which PostgreSQL expects as many rows in a table as of any other one."""
    organization = sa.bindparam("organization_id", type_=sa.Text).label("organization_id")
    return sa.select(organization).offset(sa.literal_column("0")).subquery("organization")


def unnest_or_constant(table: sa.TableValuedAlias, name: str) -> sa.ColumnElement[Any]:
    """A column of an `unnest` table. `bulk_params_or_constant` binds its values."""
    column = table.c[name]
    return sa.func.coalesce(column, sa.bindparam(f"{name}_of_each", type_=column.type))


def bulk_params(**columns: Sequence[Any]) -> dict[str, Sequence[Any]]:
    """The bind values for an `unnest` table."""
    return {f"{name}_of_all": values for name, values in columns.items()}


def bulk_params_or_constant(**columns: list[Any]) -> dict[str, Any]:
    """The bind values for columns that were declared with `unnest_or_constant`.

    A column of equal values becomes an empty array and one constant; `unnest` pads the empty array with nulls.
    At least one other column of the batch must have its full length.
    """
    values: dict[str, Any] = {}
    for name, column in columns.items():
        is_constant = bool(column) and column.count(column[0]) == len(column)
        values[f"{name}_of_all"] = [] if is_constant else column
        values[f"{name}_of_each"] = column[0] if is_constant else None
    return values
