"""How PostgreSQL finds the rows of a report: by index, behind row-level security too."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from app.billing import statement_sums
from app.core.clock import now
from app.database.engine import Database, DatabaseLogin, Query
from app.spend_limits import counter_queries as counting
from app.usage_reports import repository as reports
from app.usage_reports import rollup_repository as rollups
from app.usage_reports.reports import BucketWidth, Dimension
from app.usage_reports.time_buckets import bucket_edges, cover_of
from tests.databases import new_database
from tests.rows import change

ORGANIZATION = "org_of_many"
END = now().replace(hour=0, minute=0, second=0, microsecond=0)
START = END - timedelta(days=20)
# So much is in the sums already; what came after is the tail.
FOLDED_BEFORE = 19_900
FILL = (
    """INSERT INTO usage_event (organization_id, started_at, event_id, correction, ingested_at, ingest_xid, mode,
        model, session_id, prompt_id, outcome, usage_source, uncached_input_tokens, cache_write_5m_tokens,
        cache_write_1h_tokens, cache_read_tokens, output_tokens, web_search_requests, cost, billed, flags)
        SELECT :organization, CAST(:start AS timestamptz) + n * interval '86 seconds', n::text, 0, now(), n, 'byo',
        'm' || n % 5, 's' || n % 500, 'p' || n, 'succeeded', 'reported', 1, 0, 0, 0, 1, 0, 1, 0, 0
        FROM generate_series(1, 20000) n""",
    """INSERT INTO usage_hour SELECT :organization, CAST(:start AS timestamptz) + n * interval '1 hour', 'byo',
        'm', 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 FROM generate_series(1, 480) n""",
    "INSERT INTO usage_fold VALUES (:organization, :folded_before, now())",
)
# Small tables are read whole whatever there is; here the question is what could be used.
_SET = ("enable_seqscan = off", "plan_cache_mode = force_generic_plan")


@pytest.fixture(scope="module")
async def filled(server_url: sa.URL) -> AsyncIterator[Database]:
    """A database in which one organization has some weeks of use, most of it in the sums."""
    async with new_database(server_url) as url:
        engine = create_async_engine(url)
        values = {"organization": ORGANIZATION, "start": START, "folded_before": FOLDED_BEFORE}
        for statement in FILL:
            await change(engine, statement, **{k: v for k, v in values.items() if f":{k}" in statement})
        await change(engine, "ANALYZE")
        await engine.dispose()
        database = Database(DatabaseLogin(url=url, set_role=True))
        yield database
        await database.close()


async def plan(database: Database, group_by: tuple[Dimension, ...], *filtered: Dimension) -> str:
    edges = bucket_edges(BucketWidth.DAY, ZoneInfo("Asia/Kolkata"), START, END, within=(START, END))
    statement = reports._statement(reports._Shape(group_by, frozenset(filtered)))
    values = {
        "organization_id": ORGANIZATION,
        "edges": edges,
        "after": None,
        "at_most": 10,
        "row_from": edges[0],
        "row_until": edges[-1],
        **reports._times(cover_of(edges)),
        **{f"only_{it}": ["x"] for it in filtered},
    }
    return await explained(database, statement, values)


async def explained(database: Database, statement: Query, values: dict[str, Any]) -> str:
    async with database.session(ORGANIZATION) as session:
        for setting in _SET:
            await session.rows(Query(sa.text(f"SET LOCAL {setting}")))
        found = await session._connection.fetch(f"EXPLAIN {statement.text}", *statement.arguments(values))
    return "\n".join(row[0] for row in found)


def tail_conditions(found: str) -> int:
    return sum("Index Cond" in line and "ingest_xid >=" in line for line in found.splitlines())


class TestPlan:
    async def test_finds_the_tail_by_transaction(self, filled: Database) -> None:
        found = await plan(filled, (Dimension.USAGE_MODE, Dimension.MODEL))

        conditions = [line for line in found.splitlines() if "Index Cond" in line and "ingest_xid >=" in line]
        assert conditions, found
        assert tail_conditions(found), found
        assert "Seq Scan" not in found

    @pytest.mark.parametrize("group_by", [(Dimension.MODEL,), (Dimension.FEATURE,)])
    async def test_looks_stretches_up_one_by_one(
        self, filled: Database, group_by: tuple[Dimension, ...]
    ) -> None:
        found = await plan(filled, group_by)

        assert "Join Filter" not in found
        table = "usage_hour" if group_by == (Dimension.MODEL,) else "usage_hour_detail"
        assert f"pk_{table}" in found

    @pytest.mark.parametrize("dimension", [Dimension.SESSION_ID, Dimension.PROMPT_ID])
    async def test_finds_sessions_and_prompts_by_name(self, filled: Database, dimension: Dimension) -> None:
        found = await plan(filled, (), dimension)

        assert any("Index Cond" in line and f"({dimension} = ANY" in line for line in found.splitlines()), (
            found
        )

    async def test_of_statements_reads_no_table_whole(self, filled: Database) -> None:
        months = {"starting_at": [START], "ending_at": [START + timedelta(days=30)]}

        found = await explained(filled, statement_sums.LEDGER, {"organization_id": ORGANIZATION, **months})

        assert "pk_usage_day" in found
        assert "Seq Scan" not in found

    @pytest.mark.parametrize(
        ("statement", "table"), [(counting.COUNT, "usage_day"), (counting.COUNT_DETAIL, "usage_day_detail")]
    )
    async def test_of_a_new_limit_reads_no_table_whole(
        self, filled: Database, statement: Query, table: str
    ) -> None:
        limit = {"limit_id": uuid4(), "period": "month", "counts_from": START, "mode": "managed"}
        scope = {"model": None, "endpoint_id": None, "feature": None}

        found = await explained(filled, statement, {"organization_id": ORGANIZATION, **limit, **scope})

        assert f"pk_{table} " in found
        assert "Seq Scan" not in found

    def test_of_the_fold_knows_both_of_its_ends(self) -> None:
        assert "ingest_xid >= $" in rollups._FOLD.text
        assert "ingest_xid < $" in rollups._FOLD.text
