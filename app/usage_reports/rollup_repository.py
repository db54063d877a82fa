"""Rolls up ledger rows by hour and by day. Each row is rolled up exactly once, even after a crash.

Rollups and watermark change in one transaction. Rows of transactions that some snapshot may not see yet (`ingest_xid`
not below the oldest transaction that runs, or that a worker of Citus has yet to commit) stay unaggregated, and reports read them
directly.
"""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.database.repository import Repository
from app.database.statements import Query
from app.usage.tables import usage_event as e
from app.usage_reports.rollup_columns import (
    LOWEST_WATERMARK,
    ORGANIZATION,
    dimension_digest,
    ledger_column,
    measure_totals,
    row_measures,
    unaggregated_from,
)
from app.usage_reports.tables import (
    MEASURES,
    usage_day,
    usage_day_detail,
    usage_day_wide,
    usage_fold,
    usage_hour,
    usage_hour_detail,
    usage_hour_wide,
)
from app.usage_reports.uncommitted_rows import find_uncommitted_rows

# Rows per transaction, besides those of its last batch: few enough to stay far below any timeout, also if each row has other
# dimensions and so a separate row in every rollup (50,000 of them take longer than 5 s), and enough to make the overhead negligible.
_ROWS: sa.ColumnElement[int] = sa.literal_column("10000")

_since = sa.bindparam("since", type_=sa.BigInteger)
_until = sa.bindparam("until", type_=sa.BigInteger)
# A statement without a table, so that Citus runs it on the coordinator, which also numbers the transactions that ingest. It
# comes before the snapshot of the statements that read the ledger: all transactions before this number are visible to them.
_FIND_OLDEST = Query(
    sa.text("SELECT CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint) AS oldest")
)
_oldest = sa.bindparam("oldest", type_=sa.BigInteger)
_UTC: sa.ColumnElement[str] = sa.literal_column("'UTC'")

# Check existence first. ON CONFLICT by itself would wait for a transaction that is moving the watermark. In a materialized CTE, because Citus
# adds a condition on the distribution column to an INSERT that reads a table by itself, and a table of a distributed schema
# has none.
_MISSING_WATERMARK = (
    sa.select(
        ORGANIZATION.label("organization_id"),
        sa.literal_column("0").label("folded_before"),
        sa.literal_column("0").label("wide_folded_before"),
        sa.func.statement_timestamp().label("folded_at"),
    )
    .where(~sa.select(usage_fold.c.folded_at).where(usage_fold.c.organization_id == ORGANIZATION).exists())
    .cte("missing")
    .prefix_with("MATERIALIZED")
)
_CREATED_WATERMARK = (
    insert(usage_fold)
    .from_select(
        ["organization_id", "folded_before", "wide_folded_before", "folded_at"], sa.select(_MISSING_WATERMARK)
    )
    .on_conflict_do_nothing()
    .returning(sa.literal_column("1"))
    .cte("created")
)
_CREATE_WATERMARK = Query(sa.select(sa.literal_column("1")).select_from(_CREATED_WATERMARK))
# The instance that locks this row rolls up the organization. Other instances skip it.
_CLAIM = Query(
    sa.select(usage_fold.c.folded_before, usage_fold.c.wide_folded_before)
    .where(usage_fold.c.organization_id == ORGANIZATION)
    .with_for_update(skip_locked=True)
)
_unaggregated = sa.select(e.c.ingest_xid).where(
    e.c.organization_id == ORGANIZATION, unaggregated_from(_since)
)
_BOUNDS = Query(
    sa.select(
        # One past the transaction of the last row of this step: all rows of a transaction are rolled up together.
        (
            _unaggregated.order_by(e.c.ingest_xid)
            .offset(_ROWS)
            .limit(sa.literal_column("1"))
            .scalar_subquery()
            + sa.literal_column("1")
        ).label("cut"),
        _unaggregated.where(e.c.ingest_xid < _oldest).exists().label("has_rows"),
    )
)
_HAS_UNAGGREGATED_ROWS = Query(
    sa.select(
        sa.select(e.c.ingest_xid)
        .where(e.c.organization_id == ORGANIZATION, unaggregated_from(LOWEST_WATERMARK))
        .exists()
        .label("has_unaggregated_rows")
    )
)


_NOT_DIMENSIONS = frozenset({"organization_id", "starting_at", "digest", *MEASURES})
_TABLES = {
    "folded_before": (usage_hour, usage_day, usage_hour_detail, usage_day_detail),
    "wide_folded_before": (usage_hour_wide, usage_day_wide),
}


def _roll_up_statement(*watermarks: str) -> Query:
    """Aggregate the rows once by hour and all dimensions, and add the result to each rollup in the order of its key."""
    names = [column.name for column in usage_hour_wide.c if column.name not in _NOT_DIMENSIONS]
    rows = (
        sa.select(
            sa.func.date_trunc(sa.literal_column("'hour'"), e.c.started_at, _UTC).label("starting_at"),
            *(ledger_column(name).label(name) for name in names),
            *row_measures(),
        )
        .where(e.c.organization_id == ORGANIZATION, e.c.ingest_xid >= _since, e.c.ingest_xid < _until)
        .subquery("counted")
    )
    keys = [rows.c.starting_at, *(rows.c[name] for name in names)]
    aggregated = sa.select(*keys, *measure_totals(rows)).group_by(*keys).cte("aggregated")
    moved = (
        sa.update(usage_fold)
        .where(
            usage_fold.c.organization_id == ORGANIZATION, *(usage_fold.c[it] == _since for it in watermarks)
        )
        .values(dict.fromkeys(watermarks, _until) | {"folded_at": sa.func.statement_timestamp()})
    )
    for table in (it for watermark in watermarks for it in _TABLES[watermark]):
        moved = moved.add_cte(_upsert(table, aggregated).cte(f"into_{table.name}"))
    return Query(moved)


def _upsert(table: sa.Table, aggregated: sa.CTE) -> sa.sql.dml.ReturningInsert[tuple[int]]:
    is_day = table in {usage_day, usage_day_detail, usage_day_wide}
    start = (
        sa.func.date_trunc(sa.literal_column("'day'"), aggregated.c.starting_at, _UTC)
        if is_day
        else aggregated.c.starting_at
    )
    named = [column.name for column in table.c if column.name not in _NOT_DIMENSIONS]
    dimensions = [aggregated.c[name] for name in named]
    digest = {"digest": dimension_digest(dimensions)} if "digest" in table.c else {}
    chosen = sa.select(
        ORGANIZATION, start, *digest.values(), *dimensions, *measure_totals(aggregated)
    ).group_by(start, *dimensions)
    adding = insert(table).from_select(
        ["organization_id", "starting_at", *digest, *named, *MEASURES],
        chosen.order_by(start, *(digest.values() or dimensions)),
    )
    return adding.on_conflict_do_update(
        index_elements=table.primary_key.columns,
        set_={name: table.c[name] + adding.excluded[name] for name in MEASURES},
    ).returning(sa.literal_column("1"))


_ROLL_UP = _roll_up_statement(*_TABLES)
# For rollups that lag behind the others, because an earlier release did not have them.
_CATCH_UP = {watermark: _roll_up_statement(watermark) for watermark in _TABLES}


class WatermarkAhead(Exception):
    """The watermark comes from another server, so the rollup would miss new rows.

    Call `reset_usage_watermarks()` after a move to another server.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class RollupStep:
    """The result of one step: whether the watermark moved, and whether more rows can be rolled up now."""

    has_moved: bool
    has_more: bool


class RollupRepository(Repository):
    """Updates the rollups of one organization."""

    async def roll_up(self) -> RollupStep:
        """Run one step. Do nothing if another instance is rolling up the organization.

        Raises:
            WatermarkAhead
            DatabaseUnavailable: the cell's worker of Citus cannot be reached.
        """
        organization = {"organization_id": self._organization_id}
        await self._session.first(_CREATE_WATERMARK, **organization)
        claimed = await self._session.first(_CLAIM, **organization)
        if claimed is None:
            return RollupStep(has_moved=False, has_more=False)
        since, ahead = (choose(claimed[name] for name in _TABLES) for choose in (min, max))
        running: int = (await self._session.one(_FIND_OLDEST))["oldest"]
        if ahead > running:
            raise WatermarkAhead
        uncommitted = await find_uncommitted_rows(self._session)
        if uncommitted.has_lost:
            return RollupStep(has_moved=False, has_more=False)
        oldest = min(running, uncommitted.oldest or running)
        bounds = await self._session.one(_BOUNDS, **organization, since=since, oldest=oldest)
        if not bounds["has_rows"]:
            return RollupStep(has_moved=False, has_more=False)
        # A rollup that lags behind catches up first, so that each later step reads the rows once for all of them.
        end = oldest if since == ahead else ahead
        until = end if bounds["cut"] is None else min(bounds["cut"], end)
        lagging = [name for name in _TABLES if claimed[name] == since]
        statement = _ROLL_UP if len(lagging) == len(_TABLES) else _CATCH_UP[lagging[0]]
        moved = await self._session.execute(statement, **organization, since=since, until=until)
        if moved != 1:
            raise RuntimeError("the watermark moved although this transaction has locked it")
        return RollupStep(has_moved=True, has_more=until < oldest)

    async def may_have_unaggregated_rows(self) -> bool:
        """Return whether rows that are not rolled up yet exist, or may become visible later."""
        # In this order: what the worker commits in between has rows.
        if await find_uncommitted_rows(self._session):
            return True
        found = await self._session.one(_HAS_UNAGGREGATED_ROWS, organization_id=self._organization_id)
        return bool(found["has_unaggregated_rows"])
