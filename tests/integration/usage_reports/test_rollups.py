"""The rollup: each row counts once, and the queue item stays while unaggregated rows are left."""

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
from tests.support.database.ledger import event, ingest, insert_events
from tests.support.database.rows import change, fetch, make_due
from tests.support.polling import until
from tests.support.usage.rollups import (
    START,
    count_queue_items,
    ledger_totals,
    random_event,
    reported_totals,
    rolled_up_requests,
)


@pytest.fixture
def organization() -> str:
    return f"org_{uuid4().hex}"


class TestRollup:
    async def test_removes_the_queue_item_when_all_rows_are_rolled_up(
        self, services: Services, database: Database, superuser: AsyncEngine, organization: str
    ) -> None:
        chance = random.Random(1)
        await ingest(database, organization, *(random_event(chance) for _ in range(50)))

        async def roll_up() -> int:
            await services[RollupWorker].roll_up(organization)
            return await count_queue_items(superuser, organization)

        await until(roll_up, lambda left: left == 0)

        assert await rolled_up_requests(superuser, organization) == {50}
        assert await reported_totals(UnitsOfWork(database), organization) == await ledger_totals(
            database, organization
        )

    async def test_counts_rows_once_when_repeated(
        self, services: Services, database: Database, superuser: AsyncEngine, organization: str
    ) -> None:
        await ingest(database, organization, event(START))

        for _ in range(5):
            await services[RollupWorker].roll_up(organization)

        assert (await reported_totals(UnitsOfWork(database), organization))[0] == 1
        assert await rolled_up_requests(superuser, organization) <= {0, 1}

    async def test_waits_for_older_transactions(
        self, services: Services, database: Database, superuser: AsyncEngine, organization: str
    ) -> None:
        units = UnitsOfWork(database)
        await ingest(database, organization, event(START, output_tokens=100))
        async with database.session(organization) as session:
            await insert_events(session, organization, [event(START, output_tokens=1)])
            await ingest(database, organization, event(START, output_tokens=10))

            await services[RollupWorker].roll_up(organization)

            assert max(await rolled_up_requests(superuser, organization)) <= 1
            assert await count_queue_items(superuser, organization) == 1
            assert (await reported_totals(units, organization))[1] == 110
            await session.commit()
        assert (await reported_totals(units, organization))[1] == 111

        async def roll_up() -> int:
            await services[RollupWorker].roll_up(organization)
            return await count_queue_items(superuser, organization)

        await until(roll_up, lambda left: left == 0)
        assert await rolled_up_requests(superuser, organization) == {3}
        assert (await reported_totals(units, organization))[1] == 111

    async def test_keeps_the_queue_item_while_an_ingestion_runs(
        self, services: Services, database: Database, superuser: AsyncEngine, organization: str
    ) -> None:
        await ingest(database, organization, event(START))
        assert await count_queue_items(superuser, organization) == 1
        async with database.session(organization) as session:
            await insert_events(session, organization, [event(START)])
            await services[RollupWorker].roll_up(organization)
            await session.commit()

        assert await count_queue_items(superuser, organization) == 1

    async def test_rolls_up_due_organizations_from_the_queue(
        self, services: Services, database: Database, superuser: AsyncEngine
    ) -> None:
        organizations = [f"org_{uuid4().hex}" for _ in range(3)]
        for organization in organizations:
            await ingest(database, organization, event(START))

        async def run() -> set[int]:
            for organization in organizations:
                await make_due(superuser, organization)
            await services[RollupWorker].run()
            return {await count_queue_items(superuser, organization) for organization in organizations}

        await until(run, lambda left: left == {0})
        for organization in organizations:
            assert await rolled_up_requests(superuser, organization) == {1}

    async def test_works_in_steps_of_whole_transactions(
        self, database: Database, superuser: AsyncEngine, organization: str
    ) -> None:
        await change(
            superuser,
            "INSERT INTO usage_event SELECT :organization, :start, 'e' || n, 0, null, now(), 5 + n / 6000,"
            " 'managed', null, null, 'm', null, null, null, null, 'succeeded', 'reported', null, null,"
            " null, 0, 0, 0, 0, 1, 0, 0, 0, null, 0, null, null FROM generate_series(0, 13999) n",
            organization=organization,
            start=START,
        )

        steps: list[Any] = []
        for _ in range(3):
            async with UnitsOfWork(database).writing(organization) as uow:
                steps.append(await uow[RollupRepository].roll_up())
                await uow.commit()
            found = await fetch(
                superuser,
                "SELECT requests FROM usage_day WHERE organization_id = :organization",
                organization=organization,
            )
            assert (await reported_totals(UnitsOfWork(database), organization))[0] == 14000
            steps.append(found[0]["requests"])

        assert [(it.has_moved, it.has_more) for it in steps[::2]] == [
            (True, True),
            (True, False),
            (False, False),
        ]
        assert steps[1::2] == [12000, 14000, 14000]

    @pytest.mark.parametrize("error", [DatabaseUnavailable, ZeroDivisionError])
    async def test_continues_with_other_organizations_after_an_error(
        self, database: Database, superuser: AsyncEngine, organization: str, error: type[Exception]
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
            await make_due(superuser, failing)
            await make_due(superuser, organization)
            await RollupWorker(Failing(database)).run()
            return await rolled_up_requests(superuser, organization)

        await until(run, lambda found: found == {1})
        assert await count_queue_items(superuser, failing) == 1
        assert await rolled_up_requests(superuser, failing) == {0}

    async def test_stops_on_request_and_keeps_the_queue_item(
        self, services: Services, database: Database, superuser: AsyncEngine, organization: str
    ) -> None:
        await ingest(database, organization, event(START))
        stop = asyncio.Event()
        stop.set()

        await make_due(superuser, organization)
        assert await services[RollupWorker].run(stop) == 0

        assert await count_queue_items(superuser, organization) == 1
