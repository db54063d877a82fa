"""Open statements: lines from the ledger, rounded once, and usage that is not billed."""

import csv
import io
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.database.billed_ledger import (
    PICO,
    correction_of,
    current_month,
    insert_rows,
    months_ago,
    row,
    within,
)
from tests.support.requests.rotation import status_and_code
from tests.support.requests.statements import (
    billing_service_of,
    close_statement,
    set_endpoint_count,
    statement_of,
    subscribe,
    summarize_lines,
    usd,
)
from tests.support.tenant import MakeTenant, MakeToken, Tenant

CENT = PICO // 100


@pytest.fixture
def service(tenant: Tenant, make_token: MakeToken) -> Tenant:
    return billing_service_of(tenant, make_token)


class TestManagedUsage:
    async def test_has_a_line_for_each_model(self, tenant: Tenant, superuser: AsyncEngine) -> None:
        at = within(current_month())
        await insert_rows(
            superuser,
            row(tenant.organization, at, cost=2 * PICO, uncached_input_tokens=10, output_tokens=5),
            row(tenant.organization, at, cost=3 * PICO, cache_read_tokens=7, cache_write_1h_tokens=1),
            row(tenant.organization, at, cost=PICO // 2, model="claude-haiku-4-5", web_search_requests=4),
        )

        statement = await statement_of(tenant, current_month())

        assert statement["lines"] == [
            {
                "type": "managed_usage",
                "model": model,
                "quantity": quantity,
                "unit_price": None,
                "amount": usd(amount),
                "adjusts_month": None,
            }
            for model, quantity, amount in (
                ("claude-haiku-4-5", 0, "0.50"),
                ("claude-sonnet-4-5", 23, "5.00"),
            )
        ]
        assert statement["total"] == usd("5.50")

    @pytest.mark.parametrize(
        ("cost", "amount"),
        [
            (CENT // 2, "0.00"),
            (CENT // 2 + 1, "0.01"),
            (CENT * 3 // 2, "0.02"),
            (CENT * 5 // 2, "0.02"),
            (CENT * 5 // 2 - 1, "0.02"),
            (CENT * 5 // 2 + 1, "0.03"),
        ],
    )
    async def test_is_rounded_half_to_even(
        self, tenant: Tenant, superuser: AsyncEngine, cost: int, amount: str
    ) -> None:
        await insert_rows(superuser, row(tenant.organization, within(current_month()), cost=cost))

        assert summarize_lines(await statement_of(tenant, current_month()))[0][2] == amount

    async def test_rounds_lines_and_not_rows(self, tenant: Tenant, superuser: AsyncEngine) -> None:
        at = within(current_month())
        tiny = [row(tenant.organization, at, cost=CENT // 10) for _ in range(26)]
        await insert_rows(
            superuser, *tiny, row(tenant.organization, at, cost=CENT * 6 // 10, model="claude-haiku-4-5")
        )

        statement = await statement_of(tenant, current_month())

        assert [line[2] for line in summarize_lines(statement)] == ["0.01", "0.03"]
        assert statement["total"] == usd("0.04")

    async def test_without_a_known_price_is_shown_but_not_billed(
        self, tenant: Tenant, superuser: AsyncEngine
    ) -> None:
        at = within(current_month())
        priced_later = row(tenant.organization, at, cost=None, output_tokens=3)
        await insert_rows(
            superuser,
            priced_later,
            correction_of(priced_later, 4 * PICO),
            row(tenant.organization, at, cost=None, output_tokens=8),
        )

        statement = await statement_of(tenant, current_month())

        assert summarize_lines(statement) == [("managed_usage", "claude-sonnet-4-5", "4.00", None)]
        assert statement["lines"][0]["quantity"] == 11
        assert statement["informational"]["unpriced_managed"] == [
            {"model": "claude-sonnet-4-5", "requests": 1, "adjusts_month": None}
        ]

    async def test_with_a_credential_is_billed_0(self, tenant: Tenant, superuser: AsyncEngine) -> None:
        await insert_rows(
            superuser, row(tenant.organization, within(current_month()), cost=PICO, billed=0, flags=1)
        )

        assert (await statement_of(tenant, current_month()))["total"] == usd("0.00")

    async def test_is_in_the_month_in_which_it_started(self, tenant: Tenant, superuser: AsyncEngine) -> None:
        last, present = months_ago(1), current_month()
        await insert_rows(
            superuser,
            row(tenant.organization, present.starts_at.replace(microsecond=0), cost=PICO),
            row(tenant.organization, within(last), cost=2 * PICO),
            row(tenant.organization, within(last, days=27.999), cost=4 * PICO),
            row(tenant.organization, within(months_ago(2), days=27.999), cost=8 * PICO),
        )

        totals = [(await statement_of(tenant, months_ago(n)))["total"]["amount"] for n in (2, 1, 0)]

        assert totals == ["8.00", "6.00", "1.00"]


class TestByoUsage:
    async def test_is_shown_but_never_billed(self, tenant: Tenant, superuser: AsyncEngine) -> None:
        at = within(current_month())
        await insert_rows(
            superuser,
            row(
                tenant.organization,
                at,
                cost=PICO + 1,
                mode="byo",
                uncached_input_tokens=100,
                cache_write_5m_tokens=20,
                cache_write_1h_tokens=3,
                cache_read_tokens=50,
                output_tokens=7,
                web_search_requests=2,
            ),
            row(tenant.organization, at, cost=None, mode="byo", output_tokens=1),
        )

        statement = await statement_of(tenant, current_month())

        assert (statement["lines"], statement["total"]) == ([], usd("0.00"))
        assert statement["informational"]["byo"] == [
            {
                "model": "claude-sonnet-4-5",
                "requests": 2,
                "uncached_input_tokens": 100,
                "cache_creation_input_tokens": 23,
                "cache_read_input_tokens": 50,
                "output_tokens": 8,
                "web_search_requests": 2,
                "estimated_cost": usd("1.000000000001"),
                "unpriced_requests": 1,
                "billed_cost": usd("0.00"),
                "adjusts_month": None,
            }
        ]


class TestGetStatement:
    async def test_responds_404_for_invalid_and_future_months(self, tenant: Tenant) -> None:
        for month in (current_month().next, "2026-13", "2026-1", "1999-12", "now", "2026-11-01"):
            response = await tenant.get(f"{tenant.path}/billing-statements/{month}")
            assert status_and_code(response) == (404, "not_found")

    async def test_responds_404_for_another_organization(
        self, tenant: Tenant, make_tenant: MakeTenant, superuser: AsyncEngine
    ) -> None:
        await insert_rows(superuser, row(tenant.organization, within(current_month()), cost=PICO))
        other = make_tenant()

        response = await other.get(f"{tenant.path}/billing-statements/{current_month()}")

        assert status_and_code(response) == (404, "not_found")
        assert (await statement_of(other, current_month()))["lines"] == []

    async def test_requires_the_scope(self, tenant: Tenant, make_token: MakeToken) -> None:
        token = make_token(organization=tenant.organization, scopes={"usage:read"})
        other = Tenant(http=tenant.http, organization=tenant.organization, token=token)

        for path in ("billing-statements", f"billing-statements/{current_month()}"):
            assert status_and_code(await other.get(f"{tenant.path}/{path}")) == (403, "insufficient_scope")


class TestListStatements:
    async def test_lists_back_to_the_first_known_month(
        self, tenant: Tenant, service: Tenant, superuser: AsyncEngine
    ) -> None:
        await insert_rows(superuser, row(tenant.organization, within(months_ago(3)), cost=PICO))
        await close_statement(service, months_ago(2))
        found: list[dict[str, Any]] = []
        page: str | None = None
        sizes = []
        while True:
            query = {"limit": 3} | ({} if page is None else {"page": page})
            response = (await tenant.get(f"{tenant.path}/billing-statements", params=query)).json()
            sizes.append(len(response["data"]))
            found += response["data"]
            page = response["next_page"]
            if page is None:
                break

        assert sizes == [3, 1]
        assert [statement["month"] for statement in found] == [str(months_ago(n)) for n in range(4)]
        assert [statement["status"] for statement in found] == ["open", "open", "closed", "open"]
        assert found == [await statement_of(tenant, months_ago(n)) for n in range(4)]

    async def test_lists_the_current_month_of_a_new_organization(self, tenant: Tenant) -> None:
        response = (await tenant.get(f"{tenant.path}/billing-statements")).json()

        assert [statement["month"] for statement in response["data"]] == [str(current_month())]
        assert (response["has_more"], response["next_page"]) == (False, None)

    async def test_lists_back_to_the_first_endpoint_count(self, service: Tenant) -> None:
        await set_endpoint_count(service, f"{months_ago(2)}-05", 1)

        response = (await service.get(f"{service.path}/billing-statements")).json()

        assert len(response["data"]) == 3

    @pytest.mark.parametrize("page", ["x", "!", "_" * 40])
    async def test_rejects_invalid_cursors(self, tenant: Tenant, page: str) -> None:
        response = await tenant.get(f"{tenant.path}/billing-statements", params={"page": page})

        assert status_and_code(response) == (422, "page_invalid")


class TestExportCsv:
    async def export(self, tenant: Tenant) -> list[dict[str, str]]:
        response = await tenant.get(
            f"{tenant.path}/billing-statements/{current_month()}", headers={"Accept": "text/csv"}
        )
        assert response.status_code == 200
        assert response.headers["Content-Type"].startswith("text/csv")
        assert "attachment" in response.headers["Content-Disposition"]
        return list(csv.DictReader(io.StringIO(response.text, newline="")))

    async def test_has_focus_columns_and_adds_up_to_the_total(
        self, tenant: Tenant, service: Tenant, superuser: AsyncEngine
    ) -> None:
        await close_statement(service, months_ago(1))
        await subscribe(service, fee="99", included=0, overage="3")
        await set_endpoint_count(service, f"{current_month()}-01", 2)
        at = within(current_month())
        await insert_rows(
            superuser,
            row(tenant.organization, at, cost=PICO, output_tokens=9),
            row(tenant.organization, at, cost=5 * PICO, mode="byo", output_tokens=4),
            row(tenant.organization, within(months_ago(1)), cost=2 * PICO, output_tokens=2),
        )

        rows = await self.export(tenant)

        assert [(r["x_LineType"], r["BilledCost"], r["ChargeCategory"], r["ChargeClass"]) for r in rows] == [
            ("subscription", "99.00", "Purchase", ""),
            ("endpoint_overage", "6.00", "Purchase", ""),
            ("managed_usage", "1.00", "Usage", ""),
            ("adjustment", "2.00", "Usage", "Correction"),
            ("byo_usage", "0.00", "Usage", ""),
        ]
        total = (await statement_of(tenant, current_month()))["total"]["amount"]
        assert sum(Decimal(r["BilledCost"]) for r in rows) == Decimal(total)
        assert {r["BillingPeriodStart"] for r in rows} == {f"{current_month()}-01T00:00:00Z"}
        assert {r["BillingPeriodEnd"] for r in rows} == {f"{current_month().next}-01T00:00:00Z"}
        adjustment, byo = rows[3], rows[4]
        assert adjustment["ChargePeriodStart"] == f"{months_ago(1)}-01T00:00:00Z"
        assert (byo["InvoiceIssuerName"], byo["EffectiveCost"]) == ("Anthropic", "0.00")
        assert (byo["x_EstimatedCost"], byo["PricingQuantity"], byo["x_UsageMode"]) == ("5.00", "4", "byo")
        assert {r["BillingAccountId"] for r in rows} == {tenant.organization}

    @pytest.mark.parametrize("suffix", [".csv", ""])
    async def test_states_up_to_when_the_file_is_complete(self, tenant: Tenant, suffix: str) -> None:
        before = datetime.now(UTC)

        response = await tenant.get(
            f"{tenant.path}/billing-statements/{current_month()}{suffix}", headers={"Accept": "text/csv"}
        )

        as_of = datetime.fromisoformat(response.headers["Data-As-Of"])
        assert before - timedelta(seconds=1) <= as_of <= datetime.now(UTC) + timedelta(seconds=1)
        assert response.headers["Data-As-Of"].endswith("Z")

    async def test_of_a_closed_month_is_complete_up_to_when_it_was_closed(
        self, tenant: Tenant, service: Tenant
    ) -> None:
        month = months_ago(1)
        closed = await close_statement(service, month)

        response = await tenant.get(f"{tenant.path}/billing-statements/{month}.csv")

        assert response.headers["Data-As-Of"] == closed["closed_at"]

    async def test_escapes_spreadsheet_formulas(self, tenant: Tenant, superuser: AsyncEngine) -> None:
        formula = '=HYPERLINK("http://x","y")'
        await insert_rows(superuser, row(tenant.organization, within(current_month()), cost=1, model=formula))

        (exported_row,) = await self.export(tenant)

        assert exported_row["x_Model"] == exported_row["SkuId"] == f"'{formula}"

    @pytest.mark.parametrize(
        "accept", ["*/*", "application/json", "application/json, text/csv", "text/html", "text/csvx"]
    )
    async def test_requires_an_accept_header_of_text_csv(self, tenant: Tenant, accept: str) -> None:
        response = await tenant.get(
            f"{tenant.path}/billing-statements/{current_month()}", headers={"Accept": accept}
        )

        assert response.headers["Content-Type"] == "application/json"
