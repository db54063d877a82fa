"""Statements of an organization whose usage has very many models: its own gateway may name another one in each response."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.billing.month import BillingMonth
from app.billing.statements import MAX_MODELS
from tests.support.database.billed_ledger import PICO, current_month, insert_rows, months_ago, row, within
from tests.support.database.ledger import create_partitions
from tests.support.database.rows import change
from tests.support.request_cost import cost_of
from tests.support.requests.statements import billing_service_of, close_statement, statement_of, usd
from tests.support.tenant import MakeToken, Tenant

CENT = PICO // 100
MODELS = 20_000
LOOP_SECONDS = 0.05
MEMORY_MEBIBYTES = 64
FILL = """
    INSERT INTO usage_event (organization_id, started_at, event_id, correction, ingested_at, ingest_xid, mode, model,
        outcome, usage_source, uncached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens, cache_read_tokens,
        output_tokens, web_search_requests, cost, billed, flags)
    SELECT :organization, CAST(:at AS timestamptz), concat(:of_mode, n), 0, now(),
        CAST(CAST(pg_current_xact_id() AS text) AS bigint), :of_mode, concat('model-', lpad(CAST(n AS text), 200, '0')),
        'succeeded', 'reported', 1, 0, 0, 0, 1, 0, n * :cost, CASE :of_mode WHEN 'managed' THEN n * :cost ELSE 0 END, 0
    FROM generate_series(1, :models) n
"""

ADD_LINES = """
    INSERT INTO statement_line (organization_id, month, position, type, mode, model, quantity, exact, amount, estimated,
        requests, unpriced_requests, uncached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens, cache_read_tokens,
        output_tokens, web_search_requests)
    SELECT :organization, :month, 10000 + n, 'managed_usage', 'managed', concat('model-', lpad(CAST(n AS text), 200, '0')),
        0, CAST(:cost AS numeric), 0, CAST(:cost AS numeric), 1, 0, 0, 0, 0, 0, 0, 0
    FROM generate_series(CAST(:first AS int), CAST(:last AS int)) n
"""
# It rounds to nothing.
LESS_THAN_HALF_A_CENT = CENT * 2 // 5


async def fill(
    superuser: AsyncEngine, tenant: Tenant, month: BillingMonth, *, mode: str, models: int, cost: int = CENT
) -> None:
    """Add an event for each model. The last ones cost most."""
    at = within(month)
    await create_partitions(superuser, at, at + timedelta(days=1))
    await change(
        superuser,
        # The driver asks for one type for each parameter.
        FILL.replace(":of_mode", f"'{mode}'").replace(":cost", str(cost)),
        organization=tenant.organization,
        at=at,
        models=models,
    )


@pytest.fixture
def service(tenant: Tenant, make_token: MakeToken) -> Tenant:
    return billing_service_of(tenant, make_token)


class TestCost:
    @pytest.mark.parametrize(
        ("method", "path", "accept"),
        [
            ("GET", "billing-statements/{month}", "application/json"),
            ("GET", "billing-statements/{month}", "text/csv"),
            ("GET", "billing-statements", "application/json"),
            ("POST", "usage-mode/preview", "application/json"),
        ],
    )
    async def test_of_a_request_is_bounded(
        self, tenant: Tenant, superuser: AsyncEngine, method: str, path: str, accept: str
    ) -> None:
        month = current_month()
        await fill(superuser, tenant, month, mode="byo", models=MODELS)
        body = {"json": {"mode": "managed"}} if method == "POST" else {}
        url = f"{tenant.path}/{path.format(month=month)}"
        await tenant.request(
            method, url, headers={"Accept": accept}, **body
        )  # the first one compiles the statements

        response, cost = await cost_of(tenant.request(method, url, headers={"Accept": accept}, **body))

        assert response.status_code == 200, response.text
        assert cost.longest_seconds <= LOOP_SECONDS, cost
        assert cost.memory_mebibytes <= MEMORY_MEBIBYTES, cost


class TestOtherModels:
    async def test_have_one_line_together(self, tenant: Tenant, superuser: AsyncEngine) -> None:
        await fill(superuser, tenant, current_month(), mode="byo", models=MAX_MODELS + 100)

        byo = (await statement_of(tenant, current_month()))["informational"]["byo"]

        assert len(byo) == MAX_MODELS + 1
        assert (byo[-1]["model"], byo[-1]["requests"]) == ("", 100)
        # Those that cost most have a line.
        assert byo[0]["model"].endswith("000101")

    async def test_are_billed(self, tenant: Tenant, superuser: AsyncEngine) -> None:
        models = MAX_MODELS + 100
        await fill(superuser, tenant, current_month(), mode="managed", models=models)

        statement = await statement_of(tenant, current_month())

        assert statement["total"] == usd(f"{models * (models + 1) / 200:.2f}")
        assert statement["lines"][-1] == {
            "type": "managed_usage",
            "model": None,
            "quantity": 200,
            "unit_price": None,
            "amount": usd("50.50"),
            "adjusts_month": None,
        }

    async def test_are_adjusted_once(self, service: Tenant, superuser: AsyncEngine) -> None:
        """A late event of a model without a line stays in the line of all others: no model loses a closed line."""
        month = months_ago(1)
        await fill(superuser, service, month, mode="managed", models=MAX_MODELS + 100)
        before = await close_statement(service, month)
        late = row(service.organization, within(month), cost=1000 * PICO, model=f"model-{'1'.zfill(200)}")
        await insert_rows(superuser, late)

        statement = await statement_of(service, current_month())

        assert statement["total"] == usd("1000.00")
        assert await statement_of(service, month) == before
        assert _sum_of(statement["lines"]) == 1000
        assert [(line["model"], line["amount"]) for line in statement["lines"]] == [(None, usd("1000.00"))]

    async def test_keep_the_lines_of_closed_statements(self, service: Tenant, superuser: AsyncEngine) -> None:
        """Statements that were closed before the bound have more lines. Their roundings are not billed again."""
        month = months_ago(1)
        await fill(superuser, service, month, mode="managed", models=MAX_MODELS)
        await close_statement(service, month)
        # As if that release had given each of these a line too.
        await change(
            superuser,
            ADD_LINES,
            organization=service.organization,
            month=month.first_day,
            cost=LESS_THAN_HALF_A_CENT,
            first=MAX_MODELS + 1,
            last=MAX_MODELS + 100,
        )
        rows = [
            row(service.organization, within(month), cost=LESS_THAN_HALF_A_CENT, model=f"model-{number:0200}")
            for number in range(MAX_MODELS + 1, MAX_MODELS + 101)
        ]
        await insert_rows(superuser, *rows)

        statement = await statement_of(service, current_month())

        assert statement["lines"] == []
        assert statement["total"] == usd("0.00")

    async def test_close_with_the_month(self, service: Tenant, superuser: AsyncEngine) -> None:
        month = months_ago(1)
        await fill(superuser, service, month, mode="byo", models=MAX_MODELS + 1)
        shown = await statement_of(service, month)

        closed = await close_statement(service, month)

        assert closed["informational"] == shown["informational"]
        assert await statement_of(service, month) == closed
        assert (await statement_of(service, current_month()))["informational"]["byo"] == []


def _sum_of(lines: list[dict[str, Any]]) -> float:
    return sum(float(line["amount"]["amount"]) for line in lines)
