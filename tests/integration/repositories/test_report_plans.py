"""How PostgreSQL finds the rows of a report: by index, behind row-level security too."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa

from app.core.database import Database, Statement
from app.domain.buckets import bucket_edges, cover_of
from app.domain.reports import BucketWidth, Dimension
from app.repositories import counting, reports, rollups, statement_sums

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
    return await explained(database, organization, statement, values)


async def explained(
    database: Database, organization: str, statement: Statement, values: dict[str, Any]
) -> str:
    async with database.session(organization) as session:
        for setting in _SET:
            await session.rows(Statement(sa.text(f"SET LOCAL {setting}")))
        found = await session._connection.fetch(f"EXPLAIN {statement.text}", *statement.arguments(values))
    return "\n".join(row[0] for row in found)


def tail_conditions(found: str) -> int:
    return sum("Index Cond" in line and "ingest_xid >=" in line for line in found.splitlines())


class TestPlan:
    async def test_finds_the_tail_by_transaction(self, database: Database) -> None:
        found = await plan(database, (Dimension.USAGE_MODE, Dimension.MODEL))

        assert tail_conditions(found) >= 3, found  # one for each month
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

    async def test_of_statements_reads_no_table_whole(self, database: Database) -> None:
        organization = f"org_{uuid4().hex}"
        months = {"starting_at": [START], "ending_at": [START + timedelta(days=30)]}

        found = await explained(
            database, organization, statement_sums.LEDGER, {"organization_id": organization, **months}
        )

        assert "pk_usage_day" in found
        assert "Seq Scan" not in found

    @pytest.mark.parametrize(
        ("statement", "table"), [(counting.COUNT, "usage_day"), (counting.COUNT_DETAIL, "usage_day_detail")]
    )
    async def test_of_a_new_limit_reads_no_table_whole(
        self, database: Database, statement: Statement, table: str
    ) -> None:
        organization = f"org_{uuid4().hex}"
        limit = {"limit_id": uuid4(), "period": "month", "counts_from": START, "mode": "managed"}
        scope = {"model": None, "endpoint_id": None, "feature": None}

        found = await explained(
            database, organization, statement, {"organization_id": organization, **limit, **scope}
        )

        assert f"pk_{table} " in found
        assert "Seq Scan" not in found

    def test_of_the_fold_knows_both_of_its_ends(self) -> None:
        assert "ingest_xid >= $" in rollups._FOLD.text
        assert "ingest_xid < $" in rollups._FOLD.text
