"""How PostgreSQL finds the rows of a report: by index, behind row-level security too."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from app.core.database import Database, Statement
from app.domain.buckets import bucket_edges, cover_of
from app.domain.reports import BucketWidth, Dimension
from app.repositories import reports, rollups

START = datetime(2026, 11, 1, tzinfo=UTC)
# Small tables are read whole whatever there is; here the question is what could be used.
_SET = ("enable_seqscan = off", "plan_cache_mode = force_generic_plan")


async def plan(database: Database, group_by: tuple[Dimension, ...], *filtered: Dimension) -> str:
    organization, end = f"org_{uuid4().hex}", START + timedelta(days=20)
    edges = bucket_edges(BucketWidth.DAY, ZoneInfo("Asia/Kolkata"), START, end, within=(START, end))
    statement = reports._statement(reports._Shape(group_by, frozenset(filtered)))
    values = {
        "organization_id": organization,
        "edges": edges,
        "after": None,
        "at_most": 10,
        "row_from": edges[0],
        "row_until": edges[-1],
        **reports._times(cover_of(edges)),
        **{f"only_{it}": ["x"] for it in filtered},
    }
    async with database.session(organization, read_only=True) as session:
        for setting in _SET:
            await session.rows(Statement(sa.text(f"SET LOCAL {setting}")))
        found = await session._connection.fetch(f"EXPLAIN {statement.text}", *statement.arguments(values))
    return "\n".join(row[0] for row in found)


class TestPlan:
    async def test_finds_the_tail_by_transaction(self, database: Database) -> None:
        found = await plan(database, (Dimension.USAGE_MODE, Dimension.MODEL))

        conditions = [line for line in found.splitlines() if "Index Cond" in line and "ingest_xid >=" in line]
        assert len(conditions) >= 3, found  # one for each month
        assert "Seq Scan" not in found

    @pytest.mark.parametrize("group_by", [(Dimension.MODEL,), (Dimension.FEATURE,)])
    async def test_looks_stretches_up_one_by_one(
        self, database: Database, group_by: tuple[Dimension, ...]
    ) -> None:
        found = await plan(database, group_by)

        assert "Join Filter" not in found
        table = "usage_hour" if group_by == (Dimension.MODEL,) else "usage_hour_detail"
        assert f"pk_{table}" in found

    @pytest.mark.parametrize("dimension", [Dimension.SESSION_ID, Dimension.PROMPT_ID])
    async def test_finds_sessions_and_prompts_by_name(self, database: Database, dimension: Dimension) -> None:
        found = await plan(database, (), dimension)

        assert any("Index Cond" in line and f"({dimension} = ANY" in line for line in found.splitlines()), (
            found
        )

    def test_of_the_fold_knows_both_of_its_ends(self) -> None:
        assert "ingest_xid >= $" in rollups._FOLD.text
        assert "ingest_xid < $" in rollups._FOLD.text
