"""What folding and reporting share: how a row of the ledger counts. One definition, or sums would differ."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from app.usage.tables import usage_event as e
from app.usage_reports.tables import SUMS, usage_fold

ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)

_ZERO: sa.ColumnElement[int] = sa.literal_column("0")
_ONE: sa.ColumnElement[int] = sa.literal_column("1")
_LARGEST: sa.ColumnElement[int] = sa.literal_column("9223372036854775807")

# Behind row-level security only what is known to leak nothing may search an index, and COALESCE is not:
# so it stands within the subquery, and what is compared is that one's result.
WATERMARK: sa.ColumnElement[int] = sa.select(
    sa.func.coalesce(
        sa.select(usage_fold.c.folded_before)
        .where(usage_fold.c.organization_id == ORGANIZATION)
        .scalar_subquery(),
        sa.literal_column("0"),
    )
).scalar_subquery()

_earlier = e.alias("earlier")
# The first correction that brings a cost takes its event out of the unpriced ones.
_IS_PRICED_BEFORE = (
    sa.select(sa.literal_column("1"))
    .where(
        _earlier.c.organization_id == e.c.organization_id,
        _earlier.c.started_at == e.c.started_at,
        _earlier.c.event_id == e.c.event_id,
        _earlier.c.correction < e.c.correction,
        _earlier.c.cost.is_not(None),
    )
    .exists()
)
_UNPRICED = sa.case(
    (e.c.correction == _ZERO, sa.case((e.c.cost.is_(None), _ONE), else_=_ZERO)),
    (sa.and_(e.c.cost.is_not(None), ~_IS_PRICED_BEFORE), -_ONE),
    else_=_ZERO,
)


def counted() -> list[sa.ColumnElement[Any]]:
    """The columns of one row, by the names of the sums. Costs without a price are absent from sums, not 0."""
    own: dict[str, sa.ColumnElement[Any]] = {
        "requests": sa.case((e.c.correction == _ZERO, _ONE), else_=_ZERO),
        "cost": sa.func.coalesce(e.c.cost, _ZERO),
        "unpriced_requests": _UNPRICED,
    }
    return [(own[name] if name in own else e.c[name]).label(name) for name in SUMS]


def summed(rows: sa.FromClause) -> list[sa.ColumnElement[Any]]:
    """Sums over rows or over sums."""
    return [sa.func.sum(rows.c[name]).label(name) for name in SUMS]


def digest_of(dimensions: Sequence[sa.ColumnElement[Any]]) -> sa.ColumnElement[bytes]:
    """Tells groups apart, nulls from empty texts too, in 32 bytes."""
    as_text = sa.cast(sa.func.row(*dimensions), sa.Text)
    return sa.func.sha256(sa.func.convert_to(as_text, sa.literal_column("'UTF8'")))


def at_or_past(watermark: sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
    """The tail. A range of two ends, so that a planner that does not know the watermark expects few rows."""
    return sa.and_(e.c.ingest_xid >= watermark, e.c.ingest_xid < _LARGEST)
