"""Compares statements with an oracle in long random scenarios, and closes months during ingestion."""

import asyncio
from collections import Counter
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from app.usage_reports.rollup_worker import RollupWorker
from tests.support.database.billed_ledger import (
    PICO,
    correction_of,
    insert_rows,
    insert_rows_within,
    months_ago,
    row,
    within,
)
from tests.support.database.rows import fetch
from tests.support.oracles.statements import StatementOracle, cents
from tests.support.polling import until
from tests.support.requests.statements import (
    billing_service_of,
    close_statement,
    request_close,
    set_endpoint_count,
    statement_of,
    subscribe,
    summarize_lines,
)
from tests.support.tenant import MakeToken, Tenant

MONTHS = [months_ago(n) for n in (4, 3, 2, 1, 0)]
MODELS = ("claude-haiku-4-5", "claude-opus-4-5", "claude-sonnet-4-5")


@pytest.fixture
def service(tenant: Tenant, make_token: MakeToken) -> Tenant:
    return billing_service_of(tenant, make_token)


async def count_lock_waiters(superuser: AsyncEngine) -> int:
    found = await fetch(
        superuser, "SELECT count(*) AS n FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    )
    waiters: int = found[0]["n"]
    return waiters


async def is_rolled_up(superuser: AsyncEngine, organization: str) -> bool:
    (found,) = await fetch(
        superuser,
        "SELECT (SELECT sum(requests) FROM usage_day WHERE organization_id = :organization)"
        " = (SELECT count(*) FROM usage_event WHERE organization_id = :organization AND correction = 0) AS is_all",
        organization=organization,
    )
    return bool(found["is_all"])


class Scenario:
    """Applies random steps to one organization, in the service and in the oracle. The oracle does not use rollups."""

    def __init__(self, service: Tenant, superuser: AsyncEngine, database: Database, seed: int) -> None:
        self.service, self.superuser, self.random, self.oracle = (
            service,
            superuser,
            Random(seed),
            StatementOracle(),
        )
        self.rollup_worker = RollupWorker(UnitsOfWork(database))

    async def random_step(self) -> None:
        await self.random.choices(
            (
                self.add_usage,
                self.add_correction,
                self.subscribe,
                self.set_endpoint_count,
                self.close_month,
                self.roll_up,
            ),
            weights=(8, 2, 1, 2, 2, 2),
        )[0]()

    async def roll_up(self) -> None:
        """Roll up all rows so far, so that statements read rollups for them and rows for later ones."""
        await self.rollup_worker.roll_up(self.service.organization)

    async def add_usage(self) -> None:
        """Add rows with costs below a cent, so that rounding matters, rows with unknown costs and costs of dollars."""
        rows = []
        for _ in range(self.random.randint(1, 6)):
            cost = self.random.choice(
                (None, self.random.randint(0, PICO // 100), self.random.randint(0, 3 * PICO))
            )
            rows.append(
                row(
                    self.service.organization,
                    within(self.random.choice(MONTHS)),
                    cost=cost,
                    mode=self.random.choice(("managed", "managed", "byo")),
                    model=self.random.choice(MODELS),
                    output_tokens=self.random.randint(0, 1000),
                )
            )
        await insert_rows(self.superuser, *rows)
        self.oracle.rows += rows

    async def add_correction(self) -> None:
        """Add a price to an event without one."""
        corrected = {r["event_id"] for r in self.oracle.rows if r["correction"]}
        unpriced = [r for r in self.oracle.rows if r["cost"] is None and r["event_id"] not in corrected]
        if unpriced:
            correction = correction_of(self.random.choice(unpriced), self.random.randint(1, PICO // 50))
            await insert_rows(self.superuser, correction)
            self.oracle.rows.append(correction)

    async def subscribe(self) -> None:
        fee, overage = (f"{self.random.randint(0, 200)}.{self.random.randint(0, 9999):04}" for _ in range(2))
        included = self.random.randint(0, 4)
        await subscribe(self.service, fee=fee, included=included, overage=overage)
        self.oracle.fee, self.oracle.included, self.oracle.overage = Decimal(fee), included, Decimal(overage)

    async def set_endpoint_count(self) -> None:
        month, day, endpoints = (
            self.random.choice(MONTHS),
            self.random.randint(1, 28),
            self.random.randint(0, 9),
        )
        response = await set_endpoint_count(self.service, f"{month}-{day:02}", endpoints)
        assert response.status_code == (409 if month in self.oracle.closed_lines else 200)
        if month not in self.oracle.closed_lines:
            self.oracle.counts[month, day] = endpoints

    async def close_month(self) -> None:
        month = self.random.choice(MONTHS[:-1])
        assert summarize_lines(await close_statement(self.service, month)) == self.oracle.close(month)

    async def assert_statements(self) -> None:
        for month in MONTHS:
            statement = await statement_of(self.service, month)
            lines = self.oracle.lines(month)
            assert summarize_lines(statement) == lines
            assert statement["total"]["amount"] == cents(
                sum((Decimal(line[2]) for line in lines), Decimal(0))
            )

    async def assert_informational_usage(self) -> None:
        """All statements together contain every row exactly once."""
        byo_totals, unpriced, tokens = Counter[tuple[str, str]](), Counter[str](), Counter[str]()
        for month in MONTHS:
            statement = await statement_of(self.service, month)
            for usage in statement["informational"]["byo"]:
                assert usage["billed_cost"]["amount"] == "0.00"
                byo_totals[usage["model"], "requests"] += usage["requests"]
                byo_totals[usage["model"], "unpriced"] += usage["unpriced_requests"]
                byo_totals[usage["model"], "output"] += usage["output_tokens"]
                byo_totals[usage["model"], "cost"] += int(Decimal(usage["estimated_cost"]["amount"]) * PICO)
            for usage in statement["informational"]["unpriced_managed"]:
                unpriced[usage["model"]] += usage["requests"]
            for line in statement["lines"]:
                if line["model"] is not None:
                    tokens[line["model"]] += line["quantity"]
        rows = self.oracle.rows
        for model in MODELS:
            byo_rows = [r for r in rows if (r["mode"], r["model"]) == ("byo", model)]
            managed_rows = [r for r in rows if (r["mode"], r["model"]) == ("managed", model)]
            assert byo_totals[model, "requests"] == sum(r["correction"] == 0 for r in byo_rows)
            assert byo_totals[model, "unpriced"] == self.count_unpriced(byo_rows)
            assert byo_totals[model, "output"] == sum(r["output_tokens"] for r in byo_rows)
            assert byo_totals[model, "cost"] == sum(r["cost"] or 0 for r in byo_rows)
            assert unpriced[model] == self.count_unpriced(managed_rows)
            assert tokens[model] == sum(r["output_tokens"] for r in managed_rows)

    @staticmethod
    def count_unpriced(rows: list[dict[str, Any]]) -> int:
        priced = {r["event_id"] for r in rows if r["cost"] is not None}
        return sum(r["correction"] == 0 and r["event_id"] not in priced for r in rows)


class TestStatements:
    @pytest.mark.sampled(stride=3)
    @pytest.mark.parametrize("seed", range(6))
    async def test_equal_the_oracle_throughout_a_random_scenario(
        self, service: Tenant, superuser: AsyncEngine, database: Database, seed: int
    ) -> None:
        scenario = Scenario(service, superuser, database, seed)

        for step in range(60):
            await scenario.random_step()
            if step % 6 == 0:
                await scenario.assert_statements()

        await scenario.assert_statements()
        await scenario.assert_informational_usage()
        await scenario.roll_up()
        await scenario.assert_statements()
        await scenario.assert_informational_usage()
        assert await is_rolled_up(superuser, service.organization)


class TestCloseDuringIngestion:
    async def test_bills_every_row_once_in_its_month_or_as_an_adjustment(
        self, service: Tenant, superuser: AsyncEngine
    ) -> None:
        month, amounts = months_ago(1), [2**n for n in range(14)]
        rows = [row(service.organization, within(month), cost=amount * PICO) for amount in amounts]

        await asyncio.gather(
            *(insert_rows(superuser, one) for one in rows[:7]),
            request_close(service, month),
            *(insert_rows(superuser, one) for one in rows[7:]),
        )

        # Each amount is a different power of two, so a row that is missing or billed twice changes the bits.
        totals = [Decimal((await statement_of(service, months_ago(n)))["total"]["amount"]) for n in (1, 0)]
        closed_total, adjustments = map(int, totals)
        assert closed_total & adjustments == 0
        assert closed_total | adjustments == sum(amounts)
        assert (await statement_of(service, month))["status"] == "closed"

    async def test_waits_for_uncommitted_rows(self, service: Tenant, superuser: AsyncEngine) -> None:
        month = months_ago(1)
        async with superuser.connect() as connection, connection.begin() as transaction:
            await insert_rows_within(connection, [row(service.organization, within(month), cost=PICO)])
            closing = asyncio.create_task(request_close(service, month))
            await until(lambda: count_lock_waiters(superuser), lambda waiters: waiters > 0)
            await transaction.commit()

        statement = (await closing).json()

        assert [line["amount"]["amount"] for line in statement["lines"]] == ["1.00"]

    async def test_closes_once_for_concurrent_requests(self, service: Tenant, superuser: AsyncEngine) -> None:
        month = months_ago(1)
        await insert_rows(superuser, row(service.organization, within(month), cost=PICO))

        responses = await asyncio.gather(*(request_close(service, month) for _ in range(8)))

        assert {response.status_code for response in responses} == {200}
        assert len({response.text for response in responses}) == 1
