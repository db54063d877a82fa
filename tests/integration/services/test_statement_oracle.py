"""Every statement against an oracle, through long random lives; and closing against ingestion at the same time."""

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
from tests.api.statements import brief, close, closed, count, service_of, statement_of, subscribe
from tests.billed_ledger import PICO, add, add_within, correction_of, month_ago, row, within
from tests.conftest import MakeToken, Tenant
from tests.integration.services.statement_oracle import Oracle, cents
from tests.rows import fetch
from tests.waiting import until

MONTHS = [month_ago(n) for n in (4, 3, 2, 1, 0)]
MODELS = ("claude-haiku-4-5", "claude-opus-4-5", "claude-sonnet-4-5")


@pytest.fixture
def service(tenant: Tenant, make_token: MakeToken) -> Tenant:
    return service_of(tenant, make_token)


async def waiting_for_the_lock(owner: AsyncEngine) -> int:
    found = await fetch(
        owner, "SELECT count(*) AS n FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    )
    waiting: int = found[0]["n"]
    return waiting


async def is_all_folded(owner: AsyncEngine, organization: str) -> bool:
    (found,) = await fetch(
        owner,
        "SELECT (SELECT sum(requests) FROM usage_day WHERE organization_id = :organization)"
        " = (SELECT count(*) FROM usage_event WHERE organization_id = :organization AND correction = 0) AS is_all",
        organization=organization,
    )
    return bool(found["is_all"])


class Life:
    """What happens to one organization, told to the service and to the oracle alike. The oracle knows of no sums."""

    def __init__(self, service: Tenant, owner: AsyncEngine, database: Database, seed: int) -> None:
        self.service, self.owner, self.random, self.oracle = service, owner, Random(seed), Oracle()
        self.folding = RollupWorker(UnitsOfWork(database))

    async def go_on(self) -> None:
        await self.random.choices(
            (self.use, self.price, self.subscribe, self.count, self.close, self.fold),
            weights=(8, 2, 1, 2, 2, 2),
        )[0]()

    async def fold(self) -> None:
        """From here on what came before is read from the sums, and what comes next from rows."""
        await self.folding.fold(self.service.organization)

    async def use(self) -> None:
        """Costs around half a cent, so that rounding matters, some unknown, some of more than a dollar."""
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
        await add(self.owner, *rows)
        self.oracle.rows += rows

    async def price(self) -> None:
        """A price becomes known, once for an event."""
        corrected = {r["event_id"] for r in self.oracle.rows if r["correction"]}
        unknown = [r for r in self.oracle.rows if r["cost"] is None and r["event_id"] not in corrected]
        if unknown:
            correction = correction_of(self.random.choice(unknown), self.random.randint(1, PICO // 50))
            await add(self.owner, correction)
            self.oracle.rows.append(correction)

    async def subscribe(self) -> None:
        fee, overage = (f"{self.random.randint(0, 200)}.{self.random.randint(0, 9999):04}" for _ in range(2))
        included = self.random.randint(0, 4)
        await subscribe(self.service, fee=fee, included=included, overage=overage)
        self.oracle.fee, self.oracle.included, self.oracle.overage = Decimal(fee), included, Decimal(overage)

    async def count(self) -> None:
        month, day, endpoints = (
            self.random.choice(MONTHS),
            self.random.randint(1, 28),
            self.random.randint(0, 9),
        )
        response = await count(self.service, f"{month}-{day:02}", endpoints)
        assert response.status_code == (409 if month in self.oracle.frozen else 200)
        if month not in self.oracle.frozen:
            self.oracle.counts[month, day] = endpoints

    async def close(self) -> None:
        month = self.random.choice(MONTHS[:-1])
        assert brief(await closed(self.service, month)) == self.oracle.close(month)

    async def check(self) -> None:
        for month in MONTHS:
            statement = await statement_of(self.service, month)
            lines = self.oracle.lines(month)
            assert brief(statement) == lines
            assert statement["total"]["amount"] == cents(
                sum((Decimal(line[2]) for line in lines), Decimal(0))
            )

    async def check_what_is_not_billed(self) -> None:
        """Over all statements, frozen and late together, every row is shown once."""
        shown, unpriced, tokens = Counter[tuple[str, str]](), Counter[str](), Counter[str]()
        for month in MONTHS:
            statement = await statement_of(self.service, month)
            for use in statement["informational"]["byo"]:
                assert use["billed_cost"]["amount"] == "0.00"
                shown[use["model"], "requests"] += use["requests"]
                shown[use["model"], "unpriced"] += use["unpriced_requests"]
                shown[use["model"], "output"] += use["output_tokens"]
                shown[use["model"], "cost"] += int(Decimal(use["estimated_cost"]["amount"]) * PICO)
            for use in statement["informational"]["unpriced_managed"]:
                unpriced[use["model"]] += use["requests"]
            for line in statement["lines"]:
                if line["model"] is not None:
                    tokens[line["model"]] += line["quantity"]
        rows = self.oracle.rows
        for model in MODELS:
            byo = [r for r in rows if (r["mode"], r["model"]) == ("byo", model)]
            managed = [r for r in rows if (r["mode"], r["model"]) == ("managed", model)]
            assert shown[model, "requests"] == sum(r["correction"] == 0 for r in byo)
            assert shown[model, "unpriced"] == self.unpriced_among(byo)
            assert shown[model, "output"] == sum(r["output_tokens"] for r in byo)
            assert shown[model, "cost"] == sum(r["cost"] or 0 for r in byo)
            assert unpriced[model] == self.unpriced_among(managed)
            assert tokens[model] == sum(r["output_tokens"] for r in managed)

    @staticmethod
    def unpriced_among(rows: list[dict[str, Any]]) -> int:
        priced = {r["event_id"] for r in rows if r["cost"] is not None}
        return sum(r["correction"] == 0 and r["event_id"] not in priced for r in rows)


class TestEveryStatement:
    @pytest.mark.parametrize("seed", range(6))
    async def test_is_what_the_oracle_says_at_every_step_of_a_life(
        self, service: Tenant, owner: AsyncEngine, database: Database, seed: int
    ) -> None:
        life = Life(service, owner, database, seed)

        for step in range(60):
            await life.go_on()
            if step % 6 == 0:
                await life.check()

        await life.check()
        await life.check_what_is_not_billed()
        await life.fold()
        await life.check()
        await life.check_what_is_not_billed()
        assert await is_all_folded(owner, service.organization)


class TestClosingAgainstIngestion:
    async def test_bills_every_row_once_with_its_month_or_as_late(
        self, service: Tenant, owner: AsyncEngine
    ) -> None:
        month, amounts = month_ago(1), [2**n for n in range(14)]
        rows = [row(service.organization, within(month), cost=amount * PICO) for amount in amounts]

        await asyncio.gather(
            *(add(owner, one) for one in rows[:7]),
            close(service, month),
            *(add(owner, one) for one in rows[7:]),
        )

        # Every amount is a bit of its own: a row twice, or lost, would show.
        totals = [Decimal((await statement_of(service, month_ago(n)))["total"]["amount"]) for n in (1, 0)]
        frozen, late = map(int, totals)
        assert frozen & late == 0
        assert frozen | late == sum(amounts)
        assert (await statement_of(service, month))["status"] == "closed"

    async def test_waits_for_rows_that_are_being_written(self, service: Tenant, owner: AsyncEngine) -> None:
        month = month_ago(1)
        async with owner.connect() as connection, connection.begin() as transaction:
            await add_within(connection, [row(service.organization, within(month), cost=PICO)])
            closing = asyncio.create_task(close(service, month))
            await until(lambda: waiting_for_the_lock(owner), lambda waiting: waiting > 0)
            await transaction.commit()

        frozen = (await closing).json()

        assert [line["amount"]["amount"] for line in frozen["lines"]] == ["1.00"]

    async def test_many_times_at_once_closes_once(self, service: Tenant, owner: AsyncEngine) -> None:
        month = month_ago(1)
        await add(owner, row(service.organization, within(month), cost=PICO))

        answers = await asyncio.gather(*(close(service, month) for _ in range(8)))

        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.text for answer in answers}) == 1
