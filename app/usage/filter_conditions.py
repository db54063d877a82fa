"""SQL conditions for filters by dimension, over the ledger and over rollups with the same columns."""

from collections.abc import Sequence
from functools import reduce
from operator import or_
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from app.core.model_identity import model_identity
from app.core.visible_text import spellings
from app.usage.filters import FLAGS, Dimension, FilterShape, UsageFilters
from app.usage.tables import usage_event as e

_ZERO: sa.ColumnElement[int] = sa.literal_column("0")
# Columns of rollups that show whether a request had a value, for dimensions that they do not have.
_HAS_VALUE = {Dimension.SESSION_ID: "has_session", Dimension.PROMPT_ID: "has_prompt"}
_TEXTS = frozenset(
    {
        Dimension.MODEL,
        Dimension.ENDPOINT_ID,
        Dimension.FEATURE,
        Dimension.SESSION_ID,
        Dimension.PROMPT_ID,
        Dimension.SERVICE_TIER,
        Dimension.SPEED,
        Dimension.INFERENCE_GEO,
    }
)


def dimension_column(table: sa.FromClause, dimension: Dimension) -> sa.ColumnElement[Any]:
    """Return a table's column of a dimension. Flags are bits of one column, so they have none."""
    return table.c["mode" if dimension is Dimension.USAGE_MODE else dimension.value]


def filter_conditions(table: sa.FromClause, shape: FilterShape) -> list[sa.ColumnElement[bool]]:
    """Return one condition for each dimension of the filter. `filter_values` has their parameters."""
    found = []
    for dimension in sorted(shape.dimensions):
        options = [_is_one_of(table, dimension)] if dimension in shape.only else []
        if dimension in shape.without:
            options.append(_is_none(table, dimension))
        found.append(sa.or_(*options))
    return found


def filter_values(filters: UsageFilters) -> dict[str, Any]:
    """Return the parameters of the conditions."""
    return {f"only_{it}": _compared(it, values) for it, values in filters.only.items()}


def _is_one_of(table: sa.FromClause, dimension: Dimension) -> sa.ColumnElement[bool]:
    name = f"only_{dimension}"
    if dimension is Dimension.FLAG:
        return table.c.flags.op("&")(sa.bindparam(name, type_=sa.Integer)) != _ZERO
    column = dimension_column(table, dimension)
    values: sa.BindParameter[Any] = sa.bindparam(name, type_=ARRAY(dimension_column(e, dimension).type))
    if dimension is Dimension.MODEL:  # also matches by its other spellings
        column = sa.func.model_identity(column, type_=sa.Text)
    return column == sa.any_(values)


def _is_none(table: sa.FromClause, dimension: Dimension) -> sa.ColumnElement[bool]:
    if dimension is Dimension.FLAG:
        return table.c.flags == _ZERO
    has_value = _HAS_VALUE.get(dimension)
    if has_value is not None and has_value in table.c:
        return sa.not_(table.c[has_value])
    return dimension_column(table, dimension).is_(None)


def _compared(dimension: Dimension, values: Sequence[Any]) -> Any:
    if dimension is Dimension.FLAG:
        return int(reduce(or_, (FLAGS[it] for it in values)))
    if dimension not in _TEXTS:
        return list(values)
    if dimension is Dimension.MODEL:
        return [model_identity(it) for it in values]
    return [spelling for it in values for spelling in spellings(it)]
