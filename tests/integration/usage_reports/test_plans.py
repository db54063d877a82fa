"""Query plans of reports: PostgreSQL uses indexes, also under row-level security."""

import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from app.billing import ledger_totals
from app.core.clock import now
from app.database.engine import Database
from app.database.statements import Query
from app.spend_limits import counter_queries
from app.usage import listing_repository as listings
from app.usage.filter_conditions import filter_values
from app.usage.filters import PER_REQUEST, Dimension, DimensionValue, FilterShape, UsageFilters
from app.usage_reports import repository as reports
from app.usage_reports import rollup_repository as rollups
from app.usage_reports.day_repository import day_statement
from app.usage_reports.report_parts import OF_LEDGER, part_values
from app.usage_reports.report_statement import StatementShape, report_statement
from app.usage_reports.reports import BucketWidth
from app.usage_reports.time_buckets import bucket_edges, rollup_coverage
from tests.support.database.own_database import DatabaseRoles, copied_database
from tests.support.database.rows import change
from tests.support.steps import finished

ORGANIZATION = "org_of_many"
END = now().replace(hour=0, minute=0, second=0, microsecond=0)
START = END - timedelta(days=20)
# Rows before this transaction are rolled up; later ones are unaggregated.
WATERMARK = 19_900
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
# Values of dimensions that are not any text: PostgreSQL does not search for what a constraint excludes.
_EXAMPLES: dict[Dimension, DimensionValue] = {
    Dimension.USAGE_MODE: "byo",
    Dimension.CREDENTIAL_ID: uuid4(),
    Dimension.KEY_VERSION: 1,
    Dimension.OUTCOME: "failed",
    Dimension.USAGE_SOURCE: "estimated",
    Dimension.FLAG: "refusal",
}
# PostgreSQL scans small tables anyway. These settings show which indexes it could use.
_SET = ("enable_seqscan = off", "plan_cache_mode = force_generic_plan")


@pytest.fixture(scope="module")
async def filled(template_database: DatabaseRoles) -> AsyncIterator[Database]:
    """A database in which one organization has weeks of usage, most of it rolled up."""
    async with copied_database(template_database) as roles:
        engine = create_async_engine(roles.superuser)
        values = {"organization": ORGANIZATION, "start": START, "folded_before": WATERMARK}
        for statement in FILL:
            await change(engine, statement, **{k: v for k, v in values.items() if f":{k}" in statement})
        await change(engine, "ANALYZE")
        await engine.dispose()
        database = Database(roles.login)
        yield database
        await database.close()


async def plan(
    database: Database, group_by: tuple[Dimension, ...], *filtered: Dimension, options: str = ""
) -> str:
    edges = finished(bucket_edges(BucketWidth.DAY, ZoneInfo("Asia/Kolkata"), START, END, within=(START, END)))
    statement = report_statement(StatementShape(group_by, FilterShape(frozenset(filtered))))
    values = {
        "organization_id": ORGANIZATION,
        "edges": edges,
        "after": None,
        "at_most": 10,
        "row_from": edges[0],
        "row_until": edges[-1],
        **part_values(edges, OF_LEDGER),
        **reports._times(finished(rollup_coverage(edges))),
        **{f"only_{it}": ["x"] for it in filtered},
    }
    return await explain(database, statement, values, options=options)


async def explain(database: Database, statement: Query, values: dict[str, Any], *, options: str = "") -> str:
    async with database.session(ORGANIZATION) as session:
        for setting in _SET:
            await session.rows(Query(sa.text(f"SET LOCAL {setting}")))
        found = await session._connection.fetch(
            f"EXPLAIN {options} {statement.text}", *statement.arguments(values)
        )
    return "\n".join(row[0] for row in found)


def count_xid_conditions(found: str) -> int:
    return sum("Index Cond" in line and "ingest_xid >=" in line for line in found.splitlines())


class TestQueryPlans:
    @pytest.mark.parametrize("group_by", [(Dimension.PROMPT_ID,), (Dimension.SESSION_ID, Dimension.MODEL)])
    async def test_compute_no_buckets_after_those_of_the_page(
        self, filled: Database, group_by: tuple[Dimension, ...]
    ) -> None:
        found = await plan(filled, group_by, options="(ANALYZE, COSTS OFF, TIMING OFF)")

        # The 10 rows of the page are in the first bucket. The next one shows that the first part has no more.
        (computed,) = re.findall(r"Function Scan on part \(actual rows=(\d+)", found)
        assert int(computed) == 2, found

    async def test_finds_unaggregated_rows_by_transaction(self, filled: Database) -> None:
        found = await plan(filled, (Dimension.USAGE_MODE, Dimension.MODEL))

        conditions = [line for line in found.splitlines() if "Index Cond" in line and "ingest_xid >=" in line]
        assert conditions, found
        assert count_xid_conditions(found), found
        assert "Seq Scan" not in found

    @pytest.mark.parametrize("group_by", [(Dimension.MODEL,), (Dimension.FEATURE,)])
    async def test_searches_each_time_range_separately(
        self, filled: Database, group_by: tuple[Dimension, ...]
    ) -> None:
        found = await plan(filled, group_by)

        assert "Join Filter" not in found
        table = "usage_hour" if group_by == (Dimension.MODEL,) else "usage_hour_detail"
        assert f"pk_{table}" in found

    @pytest.mark.parametrize("dimension", [Dimension.SESSION_ID, Dimension.PROMPT_ID])
    async def test_finds_sessions_and_prompts_by_index(self, filled: Database, dimension: Dimension) -> None:
        found = await plan(filled, (), dimension)

        assert any("Index Cond" in line and f"({dimension} = ANY" in line for line in found.splitlines()), (
            found
        )

    @pytest.mark.parametrize("dimension", sorted(set(Dimension) - PER_REQUEST))
    async def test_finds_days_of_a_listing_without_scanning_the_ledger(
        self, filled: Database, dimension: Dimension
    ) -> None:
        values = filter_values(UsageFilters(only={dimension: [_EXAMPLES.get(dimension, "x")]}))
        statement = day_statement(FilterShape(frozenset({dimension})))

        found = await explain(filled, statement, {"organization_id": ORGANIZATION, **values})

        assert "on usage_day" in found
        assert count_xid_conditions(found), found
        assert "Seq Scan" not in found

    @pytest.mark.parametrize("name", ["session_id", "prompt_id", "provider_request_id", "event_id"])
    async def test_finds_days_of_single_requests_by_index(self, filled: Database, name: str) -> None:
        is_dimension = name in set(Dimension)
        filters = FilterShape(frozenset({Dimension(name)} if is_dimension else ()))
        shape = listings._StatementShape(filters, frozenset(() if is_dimension else {name}))
        values = {f"only_{name}": ["x"]} if is_dimension else {name: "x"}

        found = await explain(filled, listings._days(shape), {"organization_id": ORGANIZATION, **values})

        assert any("Index Cond" in line and f"({name} = " in line for line in found.splitlines()), found
        assert "Seq Scan" not in found

    async def test_lists_rows_in_the_order_of_the_primary_key(self, filled: Database) -> None:
        shape = listings._StatementShape(
            FilterShape(frozenset({Dimension.FEATURE})), frozenset(), is_first=True
        )
        values = {"starts": [START], "ends": [END], "only_feature": ["x"], "at_most": 21}

        found = await explain(filled, listings._page(shape), {"organization_id": ORGANIZATION, **values})

        # Only the rows of all days together are sorted; within a day, the index has them in order.
        assert found.count("Sort Key") == 1, found
        assert "Seq Scan" not in found

    async def test_statements_do_not_scan_tables(self, filled: Database) -> None:
        months = {"starting_at": [START], "ending_at": [START + timedelta(days=30)]}

        found = await explain(filled, ledger_totals.LEDGER, {"organization_id": ORGANIZATION, **months})

        assert "pk_usage_day" in found
        assert "Seq Scan" not in found

    @pytest.mark.parametrize(
        ("statement", "table"),
        [(counter_queries.RECOUNT, "usage_day"), (counter_queries.RECOUNT_DETAIL, "usage_day_detail")],
    )
    async def test_new_limits_do_not_scan_tables(
        self, filled: Database, statement: Query, table: str
    ) -> None:
        limit = {"limit_id": uuid4(), "period": "month", "counts_from": START, "mode": "managed"}
        scope = {"model": None, "endpoint_ids": None, "features": None}

        found = await explain(filled, statement, {"organization_id": ORGANIZATION, **limit, **scope})

        assert f"pk_{table} " in found
        assert "Seq Scan" not in found

    def test_the_rollup_has_an_upper_and_a_lower_bound(self) -> None:
        assert "ingest_xid >= $" in rollups._ROLL_UP.text
        assert "ingest_xid < $" in rollups._ROLL_UP.text
