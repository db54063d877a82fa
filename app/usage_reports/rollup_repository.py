"""Folds rows of the ledger into the sums by hour and day. A row is folded once, whatever dies when.

Rows and watermark move in one transaction. Rows of transactions that some snapshot might not have seen
yet (`ingest_xid` at or past the oldest one running) stay in the tail, which reports read themselves.
"""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.database.engine import Query, Session
from app.usage.tables import usage_event as e
from app.usage_reports.rollup_columns import ORGANIZATION, WATERMARK, at_or_past, counted, digest_of, summed
from app.usage_reports.tables import (
    SUMS,
    usage_day,
    usage_day_detail,
    usage_fold,
    usage_hour,
    usage_hour_detail,
)

# At a time: far below any time-out, and enough that the cost of a transaction does not show.
_ROWS: sa.ColumnElement[int] = sa.literal_column("50000")

_since = sa.bindparam("since", type_=sa.BigInteger)
_until = sa.bindparam("until", type_=sa.BigInteger)
_OLDEST = sa.cast(sa.cast(sa.func.pg_snapshot_xmin(sa.func.pg_current_snapshot()), sa.Text), sa.BigInteger)
_UTC: sa.ColumnElement[str] = sa.literal_column("'UTC'")

_BEGIN = Query(
    insert(usage_fold)
    .from_select(
        ["organization_id", "folded_before", "folded_at"],
        # Looked for first: the conflict alone would wait for whoever is moving the watermark.
        sa.select(ORGANIZATION, sa.literal_column("0"), sa.func.statement_timestamp()).where(
            ~sa.select(usage_fold.c.folded_at).where(usage_fold.c.organization_id == ORGANIZATION).exists()
        ),
    )
    .on_conflict_do_nothing()
)
# Whoever holds this row folds the organization; nobody waits for him.
_CLAIM = Query(
    sa.select(usage_fold.c.folded_before)
    .where(usage_fold.c.organization_id == ORGANIZATION)
    .with_for_update(skip_locked=True)
)
_tail = sa.select(e.c.ingest_xid).where(e.c.organization_id == ORGANIZATION, at_or_past(_since))
_BOUNDS = Query(
    sa.select(
        _OLDEST.label("oldest"),
        # One past the transaction of the last row that is still to be folded now: transactions are folded whole.
        (
            _tail.order_by(e.c.ingest_xid).offset(_ROWS).limit(sa.literal_column("1")).scalar_subquery()
            + sa.literal_column("1")
        ).label("cut"),
        _tail.where(e.c.ingest_xid < _OLDEST).exists().label("is_any"),
    )
)
_HAS_TAIL = Query(
    sa.select(
        sa.select(e.c.ingest_xid)
        .where(e.c.organization_id == ORGANIZATION, at_or_past(WATERMARK))
        .exists()
        .label("has_tail")
    )
)


def _fold() -> Query:
    """The rows summed once by hour and everything, and from there into each table, in the order of its key."""
    dimensions = [
        c for c in usage_hour_detail.c if c.name not in {"organization_id", "starting_at", "digest", *SUMS}
    ]
    rows = (
        sa.select(
            sa.func.date_trunc(sa.literal_column("'hour'"), e.c.started_at, _UTC).label("starting_at"),
            *(e.c[c.name] for c in dimensions),
            *counted(),
        )
        .where(e.c.organization_id == ORGANIZATION, e.c.ingest_xid >= _since, e.c.ingest_xid < _until)
        .subquery("counted")
    )
    keys = [rows.c.starting_at, *(rows.c[c.name] for c in dimensions)]
    fresh = sa.select(*keys, *summed(rows)).group_by(*keys).cte("fresh")
    moved = (
        sa.update(usage_fold)
        .where(usage_fold.c.organization_id == ORGANIZATION, usage_fold.c.folded_before == _since)
        .values(folded_before=_until, folded_at=sa.func.statement_timestamp())
    )
    for table in (usage_hour, usage_day, usage_hour_detail, usage_day_detail):
        moved = moved.add_cte(_added(table, fresh).cte(f"into_{table.name}"))
    return Query(moved)


def _added(table: sa.Table, fresh: sa.CTE) -> sa.sql.dml.ReturningInsert[tuple[int]]:
    is_day = table in {usage_day, usage_day_detail}
    start = (
        sa.func.date_trunc(sa.literal_column("'day'"), fresh.c.starting_at, _UTC)
        if is_day
        else fresh.c.starting_at
    )
    named = [c.name for c in table.c if c.name not in {"organization_id", "starting_at", "digest", *SUMS}]
    dimensions = [fresh.c[name] for name in named]
    digest = {"digest": digest_of(dimensions)} if "digest" in table.c else {}
    chosen = sa.select(ORGANIZATION, start, *digest.values(), *dimensions, *summed(fresh)).group_by(
        start, *dimensions
    )
    adding = insert(table).from_select(
        ["organization_id", "starting_at", *digest, *named, *SUMS],
        chosen.order_by(start, *(digest.values() or dimensions)),
    )
    return adding.on_conflict_do_update(
        index_elements=table.primary_key.columns,
        set_={name: table.c[name] + adding.excluded[name] for name in SUMS},
    ).returning(sa.literal_column("1"))


_FOLD = _fold()


class WatermarkAhead(Exception):
    """The watermark is of another server, so new rows would go unseen: `reset_usage_watermarks()` was forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """What one step did: whether it moved anything, and whether there is more that could be folded now."""

    is_any: bool
    has_more: bool


class RollupRepository:
    """One organization's sums."""

    def __init__(self, session: Session, organization_id: str) -> None:
        self._session = session
        self._organization_id = organization_id

    async def fold(self) -> Folded:
        """One step. Nothing, where another instance is at it.

        Raises:
            WatermarkAhead
        """
        organization = {"organization_id": self._organization_id}
        await self._session.execute(_BEGIN, **organization)
        claimed = await self._session.first(_CLAIM, **organization)
        if claimed is None:
            return Folded(is_any=False, has_more=False)
        since: int = claimed["folded_before"]
        bounds = await self._session.first(_BOUNDS, **organization, since=since)
        assert bounds is not None
        if since > bounds["oldest"]:
            raise WatermarkAhead
        if not bounds["is_any"]:
            return Folded(is_any=False, has_more=False)
        has_more = bounds["cut"] is not None and bounds["cut"] < bounds["oldest"]
        until: int = bounds["cut"] if has_more else bounds["oldest"]
        moved = await self._session.execute(_FOLD, **organization, since=since, until=until)
        assert moved == 1, "the watermark was claimed, so nobody else moved it"
        return Folded(is_any=True, has_more=has_more)

    async def has_tail(self) -> bool:
        """Whether there are rows that are not folded yet."""
        found = await self._session.first(_HAS_TAIL, organization_id=self._organization_id)
        assert found is not None
        return bool(found["has_tail"])
