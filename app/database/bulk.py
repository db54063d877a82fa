"""Batches as arrays: a table made of one bind parameter a column, so that a thousand rows are one round trip.

The driver looks at every element of an array, so what all rows of a batch have in common goes as one value.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY


def given(**types: Any) -> sa.TableValuedAlias:
    """Arrays of a batch as a table."""
    arrays = (sa.bindparam(f"{name}_of_all", type_=ARRAY(kind)) for name, kind in types.items())
    columns = (sa.column(name, kind) for name, kind in types.items())
    return sa.func.unnest(*arrays).table_valued(*columns, name="given").render_derived()


def given_or_shared(table: sa.TableValuedAlias, name: str) -> sa.ColumnElement[Any]:
    """A column of it whose values come by `arrays_or_shared`."""
    column = table.c[name]
    return sa.func.coalesce(column, sa.bindparam(f"{name}_of_each", type_=column.type))


def arrays(**columns: Sequence[Any]) -> dict[str, Sequence[Any]]:
    """The values of what `given` declares."""
    return {f"{name}_of_all": values for name, values in columns.items()}


def arrays_or_shared(**columns: list[Any]) -> dict[str, Any]:
    """The same, where a column of equal values is an empty array, which `unnest` fills up, and one value.

    Another column of the batch has to be as long as the batch is.
    """
    values: dict[str, Any] = {}
    for name, column in columns.items():
        is_shared = bool(column) and column.count(column[0]) == len(column)
        values[f"{name}_of_all"] = [] if is_shared else column
        values[f"{name}_of_each"] = column[0] if is_shared else None
    return values
