"""A closed statement never changes; what comes late is billed once, with the first open month after it."""

import asyncpg
import pytest
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.usage_reports.rollup_worker import RollupWorker
from tests.api.rotating import refusal, seen
from tests.api.statements import brief, close, closed, count, service_of, statement_of, subscribe, usd
from tests.billed_ledger import PICO, add, correction_of, month_ago, present_month, row, within
from tests.conftest import MakeToken, Tenant
from tests.integration.repositories.test_row_level_security import execute
from tests.rows import change, fetch

CENT = PICO // 100
SONNET, HAIKU = "claude-sonnet-4-5", "claude-haiku-4-5"


@pytest.fixture
def service(tenant: Tenant, make_token: MakeToken) -> Tenant:
    return service_of(tenant, make_token)


class TestClose:
    async def test_freezes_what_was_shown(self, service: Tenant, owner: AsyncEngine) -> None:
        month = month_ago(1)
        await subscribe(service, included=0, overage="1")
        await count(service, f"{month}-03", 7)
        await add(
            owner,
            row(service.organization, within(month), cost=PICO, output_tokens=3),
            row(service.organization, within(month), cost=None, output_tokens=3),
            row(service.organization, within(month), cost=PICO, mode="byo", cache_write_1h_tokens=3),
        )
        shown = await statement_of(service, month)

        frozen = await closed(service, month)

        assert frozen == shown | {"status": "closed", "closed_at": frozen["closed_at"]}
        assert frozen["total"] == usd("107.00")
        assert await statement_of(service, month) == frozen

    async def test_changes_nothing_afterwards(self, service: Tenant, owner: AsyncEngine) -> None:
        month = month_ago(1)
        await subscribe(service)
        frozen = await closed(service, month)

        await subscribe(service, fee="1000000", included=0)
        await add(
            owner,
            row(service.organization, within(month), cost=PICO),
            row(service.organization, within(month), cost=PICO, mode="byo"),
        )

        assert await statement_of(service, month) == frozen

    async def test_once_more_answers_the_same(self, service: Tenant, owner: AsyncEngine) -> None:
        month = month_ago(1)
        first = await closed(service, month)
        await add(owner, row(service.organization, within(month), cost=PICO))

        assert await closed(service, month) == first

        found = await fetch(
            owner, "SELECT details FROM audit_event WHERE organization_id = :o", o=service.organization
        )
        assert [event["details"] for event in found] == [{"month": str(month), "total": "0.00"}]

    async def test_of_a_month_that_is_not_over_is_refused(self, service: Tenant) -> None:
        for month in (present_month(), present_month().next):
            assert refusal(await close(service, month)) == (409, "month_not_over")

    async def test_is_on_the_trail(self, service: Tenant, tenant: Tenant) -> None:
        await closed(service, month_ago(1))

        (event,) = (await seen(tenant, f"{tenant.path}/audit-events"))["data"]

        assert (event["action"], event["actor"]) == ("statement.closed", "service@example.com")


class TestLate:
    async def test_events_are_adjusted_in_the_first_open_month(
        self, service: Tenant, owner: AsyncEngine
    ) -> None:
        late = month_ago(2)
        await closed(service, late)
        await add(
            owner,
            row(service.organization, within(late), cost=2 * PICO, output_tokens=4),
            row(service.organization, within(late), cost=PICO, model=HAIKU),
            row(service.organization, within(late), cost=9 * PICO, mode="byo", output_tokens=6),
        )

        statement = await statement_of(service, month_ago(1))

        assert brief(statement) == [
            ("adjustment", HAIKU, "1.00", str(late)),
            ("adjustment", SONNET, "2.00", str(late)),
        ]
        assert statement["lines"][1]["quantity"] == 4
        (byo,) = statement["informational"]["byo"]
        assert (byo["adjusts_month"], byo["estimated_cost"], byo["requests"]) == (str(late), usd("9.00"), 1)
        assert (await statement_of(service, present_month()))["lines"] == []

    async def test_events_of_several_closed_months_are_told_apart(
        self, service: Tenant, owner: AsyncEngine
    ) -> None:
        for months in (3, 2, 1):
            await closed(service, month_ago(months))
        for months in (1, 2, 3):
            await add(owner, row(service.organization, within(month_ago(months)), cost=months * PICO))

        assert brief(await statement_of(service, present_month())) == [
            ("adjustment", SONNET, f"{months}.00", str(month_ago(months))) for months in (3, 2, 1)
        ]

    async def test_events_are_billed_once_however_many_months_are_closed(
        self, service: Tenant, owner: AsyncEngine
    ) -> None:
        oldest = month_ago(3)
        await add(owner, row(service.organization, within(oldest), cost=PICO))
        await closed(service, oldest)
        await add(owner, row(service.organization, within(oldest), cost=2 * PICO))
        first = await closed(service, month_ago(2))
        await add(owner, row(service.organization, within(oldest), cost=4 * PICO))
        second = await closed(service, month_ago(1))

        third = await statement_of(service, present_month())

        assert brief(first) == [("adjustment", SONNET, "2.00", str(oldest))]
        assert brief(second) == [("adjustment", SONNET, "4.00", str(oldest))]
        assert third["lines"] == []

    async def test_corrections_bill_what_was_not_known_at_the_close(
        self, service: Tenant, owner: AsyncEngine
    ) -> None:
        month = month_ago(1)
        event = row(service.organization, within(month), cost=None, output_tokens=5)
        await add(owner, event)
        frozen = await closed(service, month)
        await add(owner, correction_of(event, 3 * PICO))

        statement = await statement_of(service, present_month())

        assert frozen["informational"]["unpriced_managed"][0]["requests"] == 1
        assert brief(statement) == [("adjustment", SONNET, "3.00", str(month))]
        assert statement["lines"][0]["quantity"] == 0
        assert statement["informational"]["unpriced_managed"] == [
            {"model": SONNET, "requests": -1, "adjusts_month": str(month)}
        ]

    async def test_corrections_downwards_are_given_back(self, service: Tenant, owner: AsyncEngine) -> None:
        month = month_ago(1)
        event = row(service.organization, within(month), cost=5 * PICO)
        await add(owner, event)
        await closed(service, month)
        await add(owner, correction_of(event, -2 * PICO - CENT // 2))

        statement = await statement_of(service, present_month())

        assert brief(statement) == [("adjustment", SONNET, "-2.00", str(month))]
        assert statement["total"] == usd("-2.00")

    async def test_what_rounding_left_over_is_not_billed_again(
        self, service: Tenant, owner: AsyncEngine
    ) -> None:
        month = month_ago(1)
        await add(owner, row(service.organization, within(month), cost=CENT // 2 - 1))
        await closed(service, month)
        await add(owner, row(service.organization, within(month), cost=CENT // 2 - 1))

        assert brief(await statement_of(service, present_month())) == [
            ("adjustment", SONNET, "0.00", str(month))
        ]

    async def test_events_skip_an_open_month_that_lies_before(
        self, service: Tenant, owner: AsyncEngine
    ) -> None:
        """Months may be closed in any order; an adjustment never goes back in time."""
        await closed(service, month_ago(1))
        await add(owner, row(service.organization, within(month_ago(1)), cost=PICO))

        assert (await statement_of(service, month_ago(2)))["lines"] == []
        assert brief(await statement_of(service, present_month())) == [
            ("adjustment", SONNET, "1.00", str(month_ago(1)))
        ]

    async def test_months_that_retention_took_are_left_alone(
        self, service: Tenant, owner: AsyncEngine
    ) -> None:
        long_ago = month_ago(100)
        await add(owner, row(service.organization, within(long_ago), cost=PICO))
        await closed(service, long_ago)
        await change(owner, f"DROP TABLE usage_event_y{long_ago.year}m{long_ago.month:02}")

        assert (await statement_of(service, long_ago.next))["lines"] == []
        assert (await statement_of(service, long_ago))["total"] == usd("1.00")

    async def test_months_whose_sums_outlive_their_rows_stay_as_they_were(
        self, service: Tenant, owner: AsyncEngine, database: Database
    ) -> None:
        """Nothing that was late is lost with the rows, and nothing comes to be late by it."""
        long_ago = month_ago(102)
        never_closed = month_ago(101)
        await add(owner, row(service.organization, within(long_ago), cost=PICO))
        await closed(service, long_ago)
        late = row(service.organization, within(long_ago, days=3), cost=2 * PICO)
        await add(owner, late, row(service.organization, within(never_closed), cost=4 * PICO))
        await RollupWorker(UnitsOfWork(database)).fold(service.organization)
        expected = [
            ("managed_usage", SONNET, "4.00", None),
            ("adjustment", SONNET, "2.00", str(long_ago)),
        ]
        assert brief(await statement_of(service, never_closed)) == expected

        for month in (long_ago, never_closed):
            await change(owner, f"DROP TABLE usage_event_y{month.year}m{month.month:02}")

        assert brief(await statement_of(service, never_closed)) == expected
        assert brief(await closed(service, never_closed)) == expected
        assert (await statement_of(service, never_closed.next))["lines"] == []


class TestFrozenRow:
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
    async def test_cannot_bill_what_the_organization_pays_its_provider_for(
        self, service: Tenant, owner: AsyncEngine, statement: str
    ) -> None:
        month = month_ago(1)
        await add(
            owner,
            row(service.organization, within(month), cost=PICO, mode="byo"),
            row(service.organization, within(month), cost=PICO),
        )
        await closed(service, month)

        with pytest.raises(IntegrityError, match="violates check constraint"):
            await change(owner, f"{statement} AND organization_id = :o", o=service.organization)

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
    async def test_is_for_good(self, tenant: Tenant, database: Database, statement: str) -> None:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await execute(database, tenant.organization, statement)
