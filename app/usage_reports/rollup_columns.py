"""The SQL expressions for a ledger row's measures, which rollups, reports and statements share so that totals are equal."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from app.usage.tables import usage_event as e
from app.usage_reports.tables import MEASURES, usage_fold

ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)

_ZERO: sa.ColumnElement[int] = sa.literal_column("0")
_ONE: sa.ColumnElement[int] = sa.literal_column("1")
_LARGEST: sa.ColumnElement[int] = sa.literal_column("9223372036854775807")


def _watermark(column: sa.Column[int]) -> sa.ColumnElement[int]:
    # Under row-level security PostgreSQL uses only leakproof expressions for index searches, and COALESCE is not
    # leakproof. Inside the subquery it does no harm: the comparison uses the subquery's result.
    return sa.select(
        sa.func.coalesce(
            sa.select(column).where(usage_fold.c.organization_id == ORGANIZATION).scalar_subquery(),
            sa.literal_column("0"),
        )
    ).scalar_subquery()


WATERMARK = _watermark(usage_fold.c.folded_before)
WIDE_WATERMARK = _watermark(usage_fold.c.wide_folded_before)
# Rows before it are in all rollups.
LOWEST_WATERMARK = sa.select(sa.func.least(WATERMARK, WIDE_WATERMARK)).scalar_subquery()

# Columns of the wide rollups that the ledger does not have.
_COMPUTED: dict[str, sa.ColumnElement[Any]] = {
    "has_session": e.c.session_id.is_not(None),
    "has_prompt": e.c.prompt_id.is_not(None),
}


def ledger_column(name: str) -> sa.ColumnElement[Any]:
    """Return the expression for a rollup's dimension over the rows of the ledger."""
    return _COMPUTED[name] if name in _COMPUTED else e.c[name]


# Row -1 - n of a part cancels its row n, and so does every measure of it.
_CANCELS = e.c.correction < _ZERO
_NUMBER = sa.case((_CANCELS, -_ONE - e.c.correction), else_=e.c.correction)
_SIGN = sa.case((_CANCELS, -_ONE), else_=_ONE)

_earlier = e.alias("earlier")
# The first correction with a cost removes its part from the unpriced requests. As a minimum, which the primary key has in order:
# for EXISTS, with outdated statistics, PostgreSQL could read all rows of the organization (`app.database.bulk`).
_FIRST_PRICED = (
    sa.select(sa.func.min(_earlier.c.correction))
    .where(
        _earlier.c.organization_id == e.c.organization_id,
        _earlier.c.started_at == e.c.started_at,
        _earlier.c.event_id == e.c.event_id,
        _earlier.c.part == e.c.part,
        _earlier.c.correction >= _ZERO,
        _earlier.c.cost.is_not(None),
    )
    .scalar_subquery()
)
_IS_PRICED_BEFORE = sa.func.coalesce(_FIRST_PRICED < _NUMBER, sa.false())
_UNPRICED = sa.case(
    (_NUMBER == _ZERO, sa.case((e.c.cost.is_(None), _SIGN), else_=_ZERO)),
    (sa.and_(e.c.cost.is_not(None), ~_IS_PRICED_BEFORE), -_SIGN),
    else_=_ZERO,
)


def row_measures() -> list[sa.ColumnElement[Any]]:
    """Return the measures of one ledger row. A row without a price adds 0 to the cost and 1 to `unpriced_requests`.

    A request counts once, in the row of the model that served it. A row that cancels another one takes all of it back.
    """
    own: dict[str, sa.ColumnElement[Any]] = {
        "requests": sa.case((sa.and_(_NUMBER == _ZERO, e.c.part == _ZERO), _SIGN), else_=_ZERO),
        "cost": sa.func.coalesce(e.c.cost, _ZERO),
        "unpriced_requests": _UNPRICED,
    }
    return [(own[name] if name in own else e.c[name]).label(name) for name in MEASURES]


def measure_totals(rows: sa.FromClause) -> list[sa.ColumnElement[Any]]:
    """Return the totals of ledger rows or of rollup rows."""
    return [sa.func.sum(rows.c[name]).label(name) for name in MEASURES]


def is_used(totals: sa.FromClause) -> sa.ColumnElement[bool]:
    """Whether totals contain anything. Those of events that were all corrected are 0 throughout."""
    return sa.or_(*(totals.c[name] != _ZERO for name in MEASURES))


def dimension_digest(dimensions: Sequence[sa.ColumnElement[Any]]) -> sa.ColumnElement[bytes]:
    """Identify a group in 32 bytes. Null and the empty string differ."""
    as_text = sa.cast(sa.func.row(*dimensions), sa.Text)
    return sa.func.sha256(sa.func.convert_to(as_text, sa.literal_column("'UTF8'")))


def unaggregated_from(watermark: sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
    """Select the unaggregated rows. The upper bound makes the planner expect few rows for an unknown watermark."""
    return sa.and_(e.c.ingest_xid >= watermark, e.c.ingest_xid < _LARGEST)
