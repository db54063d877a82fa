"""The fold: every row once, and the queue item until nothing is left."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.errors import DatabaseUnavailable
from app.core.services import Services
from app.database.engine import Database
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.usage_reports.rollup_repository import RollupRepository
from app.usage_reports.rollup_worker import RollupWorker
from tests.integration.services.summing import (
    START,
    in_sums,
    items,
    random_event,
    reported,
    truth,
)
from tests.ledger import add, event, ingest
from tests.rows import change, fetch, make_due
from tests.waiting import until


@pytest.fixture
def organization() -> str:
    return f"org_{uuid4().hex}"


class TestFold:
    async def test_leaves_nothing_to_do_once_everything_is_in_the_sums(
        self, services: Services, database: Database, owner: AsyncEngine, organization: str
    ) -> None:
        chance = random.Random(1)
        await ingest(database, organization, *(random_event(chance) for _ in range(50)))

        async def fold() -> int:
            await services[RollupWorker].fold(organization)
            return await items(owner, organization)

        await until(fold, lambda left: left == 0)

        assert await in_sums(owner, organization) == {50}
        assert await reported(UnitsOfWork(database), organization) == await truth(database, organization)

    async def test_again_counts_nothing_twice(
        self, services: Services, database: Database, owner: AsyncEngine, organization: str
    ) -> None:
        await ingest(database, organization, event(START))

        for _ in range(5):
            await services[RollupWorker].fold(organization)

        assert (await reported(UnitsOfWork(database), organization))[0] == 1
        assert await in_sums(owner, organization) <= {0, 1}

    async def test_waits_for_transactions_that_began_before(
        self, services: Services, database: Database, owner: AsyncEngine, organization: str
    ) -> None:
        units = UnitsOfWork(database)
        await ingest(database, organization, event(START, output_tokens=100))
        async with database.session(organization) as session:
            await add(session, organization, [event(START, output_tokens=1)])
            await ingest(database, organization, event(START, output_tokens=10))

            await services[RollupWorker].fold(organization)

            assert max(await in_sums(owner, organization)) <= 1
            assert await items(owner, organization) == 1
            assert (await reported(units, organization))[1] == 110
            await session.commit()
        assert (await reported(units, organization))[1] == 111

        async def fold() -> int:
            await services[RollupWorker].fold(organization)
            return await items(owner, organization)

        await until(fold, lambda left: left == 0)
        assert await in_sums(owner, organization) == {3}
        assert (await reported(units, organization))[1] == 111

    async def test_keeps_the_item_that_an_ingestion_under_way_counts_on(
        self, services: Services, database: Database, owner: AsyncEngine, organization: str
    ) -> None:
        await ingest(database, organization, event(START))
        assert await items(owner, organization) == 1
        async with database.session(organization) as session:
            await add(session, organization, [event(START)])
            await services[RollupWorker].fold(organization)
            await session.commit()

        assert await items(owner, organization) == 1

    async def test_takes_what_is_due_from_the_queue(
        self, services: Services, database: Database, owner: AsyncEngine
    ) -> None:
        organizations = [f"org_{uuid4().hex}" for _ in range(3)]
        for organization in organizations:
            await ingest(database, organization, event(START))

        async def run() -> set[int]:
            for organization in organizations:
                await make_due(owner, organization)
            await services[RollupWorker].run()
            return {await items(owner, organization) for organization in organizations}

        await until(run, lambda left: left == {0})
        for organization in organizations:
            assert await in_sums(owner, organization) == {1}

    async def test_of_much_goes_in_steps_of_whole_transactions(
        self, database: Database, owner: AsyncEngine, organization: str
    ) -> None:
        await change(
            owner,
            "INSERT INTO usage_event SELECT :organization, :start, 'e' || n, 0, null, now(), 5 + n / 30000,"
            " 'managed', null, null, 'm', null, null, null, null, 'succeeded', 'reported', null, null,"
            " null, 0, 0, 0, 0, 1, 0, 0, 0, null, 0, null, null FROM generate_series(0, 69999) n",
            organization=organization,
            start=START,
        )

        steps: list[Any] = []
        for _ in range(3):
            async with UnitsOfWork(database).writing(organization) as uow:
                steps.append(await uow[RollupRepository].fold())
                await uow.commit()
            found = await fetch(
                owner,
                "SELECT requests FROM usage_day WHERE organization_id = :organization",
                organization=organization,
            )
            assert (await reported(UnitsOfWork(database), organization))[0] == 70000
            steps.append(found[0]["requests"])

        assert [(it.is_any, it.has_more) for it in steps[::2]] == [
            (True, True),
            (True, False),
            (False, False),
        ]
        assert steps[1::2] == [60000, 70000, 70000]

    @pytest.mark.parametrize("error", [DatabaseUnavailable, ZeroDivisionError])
    async def test_that_fails_for_one_organization_goes_on_with_the_others(
        self, database: Database, owner: AsyncEngine, organization: str, error: type[Exception]
    ) -> None:
        failing = f"org_{uuid4().hex}"
        for it in (failing, organization):
            await ingest(database, it, event(START))

        class Failing(UnitsOfWork):
            @asynccontextmanager
            async def writing(self, organization_id: str) -> AsyncIterator[UnitOfWork]:
                if organization_id == failing:
                    raise error
                async with super().writing(organization_id) as uow:
                    yield uow

        async def run() -> set[int]:
            await make_due(owner, failing)
            await make_due(owner, organization)
            await RollupWorker(Failing(database)).run()
            return await in_sums(owner, organization)

        await until(run, lambda found: found == {1})
        assert await items(owner, failing) == 1
        assert await in_sums(owner, failing) == {0}

    async def test_stops_when_told_and_loses_nothing(
        self, services: Services, database: Database, owner: AsyncEngine, organization: str
    ) -> None:
        await ingest(database, organization, event(START))
        stop = asyncio.Event()
        stop.set()

        await make_due(owner, organization)
        assert await services[RollupWorker].run(stop) == 0

        assert await items(owner, organization) == 1
