"""The fold when it dies at any step, and in a crowd: every row once, and reports exact all the while."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.services import Services
from app.database.engine import Database, Query, Session
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.usage_reports.repository import ReportRepository
from app.usage_reports.rollup_repository import RollupRepository
from app.usage_reports.rollup_worker import RollupWorker
from tests.integration.services.summing import (
    QUERY,
    REPEATABLE_READ,
    START,
    in_sums,
    items,
    random_event,
    reported,
    sums_of,
    truth,
    truth_in,
)
from tests.interruptions import Crash
from tests.ledger import add, event, ingest
from tests.waiting import until


@pytest.fixture
def organization() -> str:
    return f"org_{uuid4().hex}"


class _DyingSession(Session):
    """Dies at the n-th thing that it is asked to do: before it, or with its answer lost."""

    __slots__ = ("_reach",)

    def __init__(self, session: Session, reach: Callable[[], None]) -> None:
        super().__init__(session._connection)
        self._reach = reach

    async def _step(self, work: Awaitable[Any]) -> Any:
        try:
            self._reach()
        except Crash:
            work.close()  # type: ignore[attr-defined]  # a coroutine that nobody will await
            raise
        found = await work
        self._reach()
        return found

    async def first(self, statement: Query, /, **values: Any) -> Any:
        return await self._step(super().first(statement, **values))

    async def execute(self, statement: Query, /, **values: Any) -> int:
        touched: int = await self._step(super().execute(statement, **values))
        return touched

    async def commit(self) -> None:
        await self._step(super().commit())


class _DyingUnits(UnitsOfWork):
    def __init__(self, database: Database, at: int) -> None:
        super().__init__(database)
        self.steps, self._at = 0, at

    def _reach(self) -> None:
        self.steps += 1
        if self.steps >= self._at:
            raise Crash

    @asynccontextmanager
    async def writing(self, organization_id: str) -> AsyncIterator[UnitOfWork]:
        async with self._database.session(organization_id) as session:
            yield UnitOfWork(_DyingSession(session, self._reach), organization_id)


class TestDeath:
    async def test_at_any_step_loses_nothing_and_counts_nothing_twice(
        self, services: Services, database: Database, owner: AsyncEngine, organization: str
    ) -> None:
        chance, units = random.Random(2), UnitsOfWork(database)
        at, got_through = 0, False
        while not got_through:
            at += 1
            await ingest(database, organization, *(random_event(chance) for _ in range(3)))
            whole = await truth(database, organization)
            dying = _DyingUnits(database, at)
            try:
                await RollupWorker(dying).fold(organization)
                got_through = True
            except Crash:
                pass

            assert await reported(units, organization) == whole
            tail_or_nothing = await items(owner, organization)
            async with units.reading(organization) as uow:
                assert tail_or_nothing or not await uow[RollupRepository].has_tail()

        assert at > 15
        await services[RollupWorker].fold(organization)
        assert await reported(units, organization) == await truth(database, organization)


FEWEST_BATCHES, FEWEST_COMPARISONS = 25, 6


class Crowd:
    """Some who ingest, some who fold, and one who compares, until the first are done."""

    def __init__(self, database: Database, organization: str, *, writers: int) -> None:
        self._database = database
        self._organization = organization
        self._running = writers
        self._units = UnitsOfWork(database)
        self.accepted = 0
        self.compared = 0

    async def run(self, *, folders: int) -> None:
        async with asyncio.TaskGroup() as group:
            for seed in range(self._running):
                group.create_task(self._write(random.Random(seed)))
            for _ in range(folders):
                group.create_task(self._fold())
            group.create_task(self._compare())

    async def _write(self, chance: random.Random) -> None:
        # Until enough was compared too: on a busy machine the one who compares is the slowest.
        for number in itertools.count():
            if number >= FEWEST_BATCHES and self.compared >= FEWEST_COMPARISONS:
                break
            events = [random_event(chance) for _ in range(chance.randrange(1, 8))]
            async with self._database.session(self._organization) as session:
                await add(session, self._organization, events)
                if chance.random() < 0.8:
                    await session.commit()
                    self.accepted += len(events)
        self._running -= 1

    async def _fold(self) -> None:
        while self._running:
            await RollupWorker(self._units).fold(self._organization)

    async def _compare(self) -> None:
        """The report and the ledger in one snapshot; and whatever was accepted before in the next report."""
        edges = [QUERY.starting_at, START + timedelta(days=5)]
        while self._running:
            known = self.accepted
            async with self._database.session(self._organization, read_only=True) as session:
                await session.rows(REPEATABLE_READ)
                uow = UnitOfWork(session, self._organization)
                rows = await uow[ReportRepository].rows(QUERY, edges, after=None, at_most=100)
                assert sums_of(rows) == await truth_in(session)
            assert (await reported(self._units, self._organization))[0] >= known
            self.compared += 1


class TestTogether:
    async def test_reports_are_exact_whoever_folds_and_ingests(
        self, services: Services, database: Database, owner: AsyncEngine, organization: str
    ) -> None:
        crowd = Crowd(database, organization, writers=4)

        await crowd.run(folders=3)

        assert await reported(UnitsOfWork(database), organization) == await truth(database, organization)
        assert (await truth(database, organization))[0] == crowd.accepted

        async def fold_rest() -> int:
            await services[RollupWorker].fold(organization)
            return await items(owner, organization)

        await until(fold_rest, lambda left: left == 0)
        assert await in_sums(owner, organization) == {crowd.accepted}
        assert await reported(UnitsOfWork(database), organization) == await truth(database, organization)

    async def test_one_at_a_time_folds_an_organization_and_nobody_waits(
        self, database: Database, organization: str
    ) -> None:
        await ingest(database, organization, event(START))
        units = UnitsOfWork(database)
        async with units.writing(organization) as first, units.writing(organization) as second:
            await first[RollupRepository].fold()
            await first.commit()
            await ingest(database, organization, event(START))
            async with units.writing(organization) as third:
                await third[RollupRepository].fold()

                step = await second[RollupRepository].fold()

            assert not step.is_any
