"""A closed statement never changes. Late usage is billed once, in the first open month after it."""

import asyncpg
import pytest
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.usage_reports.rollup_worker import RollupWorker
from tests.support.database.billed_ledger import (
    PICO,
    correction_of,
    current_month,
    insert_rows,
    months_ago,
    row,
    within,
)
from tests.support.database.row_level_security import execute
from tests.support.database.rows import change, fetch
from tests.support.requests.rotation import get_json, status_and_code
from tests.support.requests.statements import (
    billing_service_of,
    close_statement,
    request_close,
    set_endpoint_count,
    statement_of,
    subscribe,
    summarize_lines,
    usd,
)
from tests.support.tenant import MakeToken, Tenant

CENT = PICO // 100
SONNET, HAIKU = "claude-sonnet-4-5", "claude-haiku-4-5"


@pytest.fixture
def service(tenant: Tenant, make_token: MakeToken) -> Tenant:
    return billing_service_of(tenant, make_token)


class TestClose:
    async def test_stores_the_statement_as_shown(self, service: Tenant, superuser: AsyncEngine) -> None:
        month = months_ago(1)
        await subscribe(service, included=0, overage="1")
        await set_endpoint_count(service, f"{month}-03", 7)
        await insert_rows(
            superuser,
            row(service.organization, within(month), cost=PICO, output_tokens=3),
            row(service.organization, within(month), cost=None, output_tokens=3),
            row(service.organization, within(month), cost=PICO, mode="byo", cache_write_1h_tokens=3),
        )
        open_statement = await statement_of(service, month)

        closed = await close_statement(service, month)

        assert closed == open_statement | {"status": "closed", "closed_at": closed["closed_at"]}
        assert closed["total"] == usd("107.00")
        assert await statement_of(service, month) == closed

    async def test_statement_does_not_change_afterwards(
        self, service: Tenant, superuser: AsyncEngine
    ) -> None:
        month = months_ago(1)
        await subscribe(service)
        closed = await close_statement(service, month)

        await subscribe(service, fee="1000000", included=0)
        await insert_rows(
            superuser,
            row(service.organization, within(month), cost=PICO),
            row(service.organization, within(month), cost=PICO, mode="byo"),
        )

        assert await statement_of(service, month) == closed

    async def test_repeated_returns_the_same_statement(self, service: Tenant, superuser: AsyncEngine) -> None:
        month = months_ago(1)
        first = await close_statement(service, month)
        await insert_rows(superuser, row(service.organization, within(month), cost=PICO))

        assert await close_statement(service, month) == first

        found = await fetch(
            superuser, "SELECT details FROM audit_event WHERE organization_id = :o", o=service.organization
        )
        assert [event["details"] for event in found] == [{"month": str(month), "total": "0.00"}]

    async def test_rejects_a_month_that_is_not_over(self, service: Tenant) -> None:
        for month in (current_month(), current_month().next):
            assert status_and_code(await request_close(service, month)) == (409, "month_not_over")

    async def test_records_an_audit_event(self, service: Tenant, tenant: Tenant) -> None:
        await close_statement(service, months_ago(1))

        (event,) = (await get_json(tenant, f"{tenant.path}/audit-events"))["data"]

        assert (event["action"], event["actor"]) == ("statement.closed", "service@example.com")


class TestLateUsage:
    async def test_is_adjusted_in_the_first_open_month(self, service: Tenant, superuser: AsyncEngine) -> None:
        closed_month = months_ago(2)
        await close_statement(service, closed_month)
        await insert_rows(
            superuser,
            row(service.organization, within(closed_month), cost=2 * PICO, output_tokens=4),
            row(service.organization, within(closed_month), cost=PICO, model=HAIKU),
            row(service.organization, within(closed_month), cost=9 * PICO, mode="byo", output_tokens=6),
        )

        statement = await statement_of(service, months_ago(1))

        assert summarize_lines(statement) == [
            ("adjustment", HAIKU, "1.00", str(closed_month)),
            ("adjustment", SONNET, "2.00", str(closed_month)),
        ]
        assert statement["lines"][1]["quantity"] == 4
        (byo,) = statement["informational"]["byo"]
        assert (byo["adjusts_month"], byo["estimated_cost"], byo["requests"]) == (
            str(closed_month),
            usd("9.00"),
            1,
        )
        assert (await statement_of(service, current_month()))["lines"] == []

    async def test_has_a_line_for_each_adjusted_month(self, service: Tenant, superuser: AsyncEngine) -> None:
        for months in (3, 2, 1):
            await close_statement(service, months_ago(months))
        for months in (1, 2, 3):
            await insert_rows(
                superuser, row(service.organization, within(months_ago(months)), cost=months * PICO)
            )

        assert summarize_lines(await statement_of(service, current_month())) == [
            ("adjustment", SONNET, f"{months}.00", str(months_ago(months))) for months in (3, 2, 1)
        ]

    async def test_is_billed_once_for_any_number_of_closed_months(
        self, service: Tenant, superuser: AsyncEngine
    ) -> None:
        oldest = months_ago(3)
        await insert_rows(superuser, row(service.organization, within(oldest), cost=PICO))
        await close_statement(service, oldest)
        await insert_rows(superuser, row(service.organization, within(oldest), cost=2 * PICO))
        first = await close_statement(service, months_ago(2))
        await insert_rows(superuser, row(service.organization, within(oldest), cost=4 * PICO))
        second = await close_statement(service, months_ago(1))

        third = await statement_of(service, current_month())

        assert summarize_lines(first) == [("adjustment", SONNET, "2.00", str(oldest))]
        assert summarize_lines(second) == [("adjustment", SONNET, "4.00", str(oldest))]
        assert third["lines"] == []

    async def test_bills_requests_priced_after_the_close(
        self, service: Tenant, superuser: AsyncEngine
    ) -> None:
        month = months_ago(1)
        event = row(service.organization, within(month), cost=None, output_tokens=5)
        await insert_rows(superuser, event)
        closed = await close_statement(service, month)
        await insert_rows(superuser, correction_of(event, 3 * PICO))

        statement = await statement_of(service, current_month())

        assert closed["informational"]["unpriced_managed"][0]["requests"] == 1
        assert summarize_lines(statement) == [("adjustment", SONNET, "3.00", str(month))]
        assert statement["lines"][0]["quantity"] == 0
        assert statement["informational"]["unpriced_managed"] == [
            {"model": SONNET, "requests": -1, "adjusts_month": str(month)}
        ]

    async def test_credits_negative_corrections(self, service: Tenant, superuser: AsyncEngine) -> None:
        month = months_ago(1)
        event = row(service.organization, within(month), cost=5 * PICO)
        await insert_rows(superuser, event)
        await close_statement(service, month)
        await insert_rows(superuser, correction_of(event, -2 * PICO - CENT // 2))

        statement = await statement_of(service, current_month())

        assert summarize_lines(statement) == [("adjustment", SONNET, "-2.00", str(month))]
        assert statement["total"] == usd("-2.00")

    async def test_does_not_bill_rounding_differences(self, service: Tenant, superuser: AsyncEngine) -> None:
        month = months_ago(1)
        await insert_rows(superuser, row(service.organization, within(month), cost=CENT // 2 - 1))
        await close_statement(service, month)
        await insert_rows(superuser, row(service.organization, within(month), cost=CENT // 2 - 1))

        assert summarize_lines(await statement_of(service, current_month())) == [
            ("adjustment", SONNET, "0.00", str(month))
        ]

    async def test_skips_earlier_open_months(self, service: Tenant, superuser: AsyncEngine) -> None:
        """Months may be closed in any order. An adjustment is never in an earlier month."""
        await close_statement(service, months_ago(1))
        await insert_rows(superuser, row(service.organization, within(months_ago(1)), cost=PICO))

        assert (await statement_of(service, months_ago(2)))["lines"] == []
        assert summarize_lines(await statement_of(service, current_month())) == [
            ("adjustment", SONNET, "1.00", str(months_ago(1)))
        ]

    async def test_ignores_months_deleted_by_retention(self, service: Tenant, superuser: AsyncEngine) -> None:
        long_ago = months_ago(100)
        await insert_rows(superuser, row(service.organization, within(long_ago), cost=PICO))
        await close_statement(service, long_ago)
        await change(superuser, f"DROP TABLE usage_event_y{long_ago.year}m{long_ago.month:02}")

        assert (await statement_of(service, long_ago.next))["lines"] == []
        assert (await statement_of(service, long_ago))["total"] == usd("1.00")

    async def test_is_kept_if_only_rollups_are_retained(
        self, service: Tenant, superuser: AsyncEngine, database: Database
    ) -> None:
        """Deleting the rows neither loses late usage nor turns other usage into late usage."""
        long_ago = months_ago(102)
        never_closed = months_ago(101)
        await insert_rows(superuser, row(service.organization, within(long_ago), cost=PICO))
        await close_statement(service, long_ago)
        late_row = row(service.organization, within(long_ago, days=3), cost=2 * PICO)
        await insert_rows(superuser, late_row, row(service.organization, within(never_closed), cost=4 * PICO))
        await RollupWorker(UnitsOfWork(database)).roll_up(service.organization)
        expected = [
            ("managed_usage", SONNET, "4.00", None),
            ("adjustment", SONNET, "2.00", str(long_ago)),
        ]
        assert summarize_lines(await statement_of(service, never_closed)) == expected

        for month in (long_ago, never_closed):
            await change(superuser, f"DROP TABLE usage_event_y{month.year}m{month.month:02}")

        assert summarize_lines(await statement_of(service, never_closed)) == expected
        assert summarize_lines(await close_statement(service, never_closed)) == expected
        assert (await statement_of(service, never_closed.next))["lines"] == []


class TestDatabaseConstraints:
    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE statement_line SET amount = 1 WHERE mode = 'byo'",
            "UPDATE statement_line SET exact = 1 WHERE mode = 'byo'",
            "UPDATE statement_line SET mode = 'managed' WHERE mode = 'byo'",
            "UPDATE statement_line SET type = 'managed_usage' WHERE mode = 'byo'",
            "UPDATE statement_line SET mode = 'byo' WHERE mode = 'managed'",
            "UPDATE statement_line SET type = 'adjustment' WHERE mode = 'managed'",
            "UPDATE statement_line SET adjusts_month = month WHERE mode = 'byo'",
            "UPDATE statement_line SET mode = NULL WHERE mode = 'byo'",
        ],
    )
    async def test_reject_billed_byo_lines(
        self, service: Tenant, superuser: AsyncEngine, statement: str
    ) -> None:
        month = months_ago(1)
        await insert_rows(
            superuser,
            row(service.organization, within(month), cost=PICO, mode="byo"),
            row(service.organization, within(month), cost=PICO),
        )
        await close_statement(service, month)

        with pytest.raises(IntegrityError, match="violates check constraint"):
            await change(superuser, f"{statement} AND organization_id = :o", o=service.organization)

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE statement SET total = 0",
            "DELETE FROM statement",
            "UPDATE statement_line SET amount = 0",
            "DELETE FROM statement_line",
            "DELETE FROM endpoint_count",
            "DELETE FROM subscription",
        ],
    )
    async def test_deny_changes_to_closed_statements(
        self, tenant: Tenant, database: Database, statement: str
    ) -> None:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await execute(database, tenant.organization, statement)
