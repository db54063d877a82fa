"""Batches as arrays: a table made of one bind parameter a column, so that a thousand rows are one round trip."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY


def given(**types: Any) -> sa.TableValuedAlias:
    """Arrays of a batch as a table."""
    arrays = (sa.bindparam(f"{name}_of_all", type_=ARRAY(kind)) for name, kind in types.items())
    columns = (sa.column(name, kind) for name, kind in types.items())
    return sa.func.unnest(*arrays).table_valued(*columns, name="given").render_derived()


def arrays(**columns: Sequence[Any]) -> dict[str, Sequence[Any]]:
    """The values of what `given` declares."""
    return {f"{name}_of_all": values for name, values in columns.items()}
