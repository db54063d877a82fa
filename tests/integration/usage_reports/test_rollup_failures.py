"""Rollups that crash at any step or run concurrently: each row counts once, and reports are always exact."""

import asyncio
import itertools
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.services import Services
from app.database.engine import Database
from app.database.sessions import Session
from app.database.statements import FixedStatement, Query
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.usage_reports.repository import ReportRepository
from app.usage_reports.rollup_repository import RollupRepository
from app.usage_reports.rollup_worker import RollupWorker
from tests.support.database.ledger import event, ingest, insert_events
from tests.support.database.rows import change
from tests.support.fault_injection import Crash
from tests.support.polling import until
from tests.support.usage.rollups import (
    QUERY,
    START,
    count_queue_items,
    ledger_totals,
    ledger_totals_in,
    random_event,
    reported_totals,
    rolled_up_requests,
    totals_of,
)


@pytest.fixture
def organization() -> str:
    return f"org_{uuid4().hex}"


class _CrashingSession(Session):
    """Crashes at the n-th step: before an operation, or after it but before its result returns."""

    __slots__ = ("_count_step",)

    def __init__(self, session: Session, reach: Callable[[], None]) -> None:
        super().__init__(session._connection)
        self._count_step = reach

    async def _step(self, operation: Awaitable[Any]) -> Any:
        try:
            self._count_step()
        except Crash:
            operation.close()  # type: ignore[attr-defined]  # close the coroutine, because it is never awaited
            raise
        found = await operation
        self._count_step()
        return found

    async def first(self, statement: Query, /, **values: Any) -> Any:
        return await self._step(super().first(statement, **values))

    async def execute(self, statement: Query, /, **values: Any) -> int:
        touched: int = await self._step(super().execute(statement, **values))
        return touched

    async def commit(self, *, last_statement: FixedStatement | None = None) -> None:
        await self._step(super().commit(last_statement=last_statement))


class _CrashingUnits(UnitsOfWork):
    def __init__(self, database: Database, at: int) -> None:
        super().__init__(database)
        self.steps, self._at = 0, at

    def _count_step(self) -> None:
        self.steps += 1
        if self.steps >= self._at:
            raise Crash

    @asynccontextmanager
    async def writing(self, organization_id: str) -> AsyncIterator[UnitOfWork]:
        async with self._database.session(organization_id) as session:
            yield UnitOfWork(_CrashingSession(session, self._count_step), organization_id)


class TestCrash:
    async def test_after_any_step_loses_no_row_and_counts_none_twice(
        self, services: Services, database: Database, superuser: AsyncEngine, organization: str
    ) -> None:
        chance, units = random.Random(2), UnitsOfWork(database)
        at, never_fired = 0, False
        while not never_fired:
            at += 1
            await ingest(database, organization, *(random_event(chance) for _ in range(3)))
            expected = await ledger_totals(database, organization)
            crashing = _CrashingUnits(database, at)
            try:
                await RollupWorker(crashing).roll_up(organization)
                never_fired = True
            except Crash:
                pass

            assert await reported_totals(units, organization) == expected
            queued = await count_queue_items(superuser, organization)
            async with units.reading(organization) as uow:
                assert queued or not await uow[RollupRepository].may_have_unaggregated_rows()

        assert at > 15
        await services[RollupWorker].roll_up(organization)
        assert await reported_totals(units, organization) == await ledger_totals(database, organization)


MIN_BATCHES, MIN_COMPARISONS = 25, 6


class ConcurrentLoad:
    """Concurrent writers and rollup workers, and one task that compares reports until the writers finish."""

    def __init__(self, database: Database, organization: str, *, writers: int) -> None:
        self._database = database
        self._organization = organization
        self._running = writers
        self._units = UnitsOfWork(database)
        self.accepted = 0
        self.compared = 0

    async def run(self, *, rollup_workers: int) -> None:
        async with asyncio.TaskGroup() as group:
            for seed in range(self._running):
                group.create_task(self._write(random.Random(seed)))
            for _ in range(rollup_workers):
                group.create_task(self._roll_up())
            group.create_task(self._compare())

    async def _write(self, chance: random.Random) -> None:
        # Continue until there are enough comparisons: on a busy machine, comparing is slowest.
        for number in itertools.count():
            if number >= MIN_BATCHES and self.compared >= MIN_COMPARISONS:
                break
            events = [random_event(chance) for _ in range(chance.randrange(1, 8))]
            async with self._database.session(self._organization) as session:
                await insert_events(session, self._organization, events)
                if chance.random() < 0.8:
                    await session.commit()
                    self.accepted += len(events)
        self._running -= 1

    async def _roll_up(self) -> None:
        while self._running:
            await RollupWorker(self._units).roll_up(self._organization)

    async def _compare(self) -> None:
        """Compare report and ledger in one snapshot. The next report must contain all earlier events."""
        edges = [QUERY.starting_at, START + timedelta(days=5)]
        while self._running:
            known = self.accepted
            async with self._database.session(
                self._organization, read_only=True, is_snapshot=True
            ) as session:
                uow = UnitOfWork(session, self._organization)
                found = await uow[ReportRepository].rows(QUERY, edges, after=None, at_most=100)
                assert totals_of(await found.records()) == await ledger_totals_in(session)
            assert (await reported_totals(self._units, self._organization))[0] >= known
            self.compared += 1


class TestConcurrency:
    async def test_reports_are_exact_during_ingestion_and_rollups(
        self, services: Services, database: Database, superuser: AsyncEngine, organization: str
    ) -> None:
        load = ConcurrentLoad(database, organization, writers=4)

        await load.run(rollup_workers=3)

        assert await reported_totals(UnitsOfWork(database), organization) == await ledger_totals(
            database, organization
        )
        assert (await ledger_totals(database, organization))[0] == load.accepted

        async def roll_up_rest() -> int:
            await services[RollupWorker].roll_up(organization)
            return await count_queue_items(superuser, organization)

        await until(roll_up_rest, lambda left: left == 0)
        assert await rolled_up_requests(superuser, organization) == {load.accepted}
        assert await reported_totals(UnitsOfWork(database), organization) == await ledger_totals(
            database, organization
        )

    async def test_skips_an_organization_that_another_transaction_is_rolling_up(
        self, database: Database, organization: str
    ) -> None:
        await ingest(database, organization, event(START))
        units = UnitsOfWork(database)
        async with units.writing(organization) as first, units.writing(organization) as second:
            await first[RollupRepository].roll_up()
            await first.commit()
            await ingest(database, organization, event(START))
            async with units.writing(organization) as third:
                await third[RollupRepository].roll_up()

                step = await second[RollupRepository].roll_up()

            assert not step.has_moved


ROWS_PER_STEP = 10_000
_COLUMNS = (
    "organization_id, started_at, correction, ingested_at, ingest_xid, mode, model, outcome, usage_source,"
    " uncached_input_tokens, cache_write_5m_tokens, cache_write_1h_tokens, cache_read_tokens, output_tokens,"
    " web_search_requests, cost, billed, flags"
)
_COPY = (
    f"INSERT INTO usage_event (event_id, {_COLUMNS}) SELECT n::text, {_COLUMNS}"
    " FROM usage_event, generate_series(1, :copies) n WHERE organization_id = :organization"
)

_COPY_IN_OWN_TRANSACTION = (
    f"INSERT INTO usage_event (event_id, {_COLUMNS}) SELECT concat('{{number}}-', n),"
    f" {_COLUMNS.replace('ingest_xid', 'CAST(CAST(pg_current_xact_id() AS text) AS bigint)')}"
    " FROM (SELECT * FROM usage_event WHERE organization_id = :organization LIMIT 1) e, generate_series(1, :copies) n"
)


class TestManyRows:
    async def test_rows_left_by_one_job_are_rolled_up_by_the_next_one(
        self, database: Database, superuser: AsyncEngine, organization: str
    ) -> None:
        await ingest(database, organization, event(START))
        await change(superuser, _COPY, organization=organization, copies=ROWS_PER_STEP)

        jobs = await RollupWorker(UnitsOfWork(database), steps_at_a_time=1).run()

        assert jobs >= 2
        assert await rolled_up_requests(superuser, organization) == {ROWS_PER_STEP + 1}
        assert await count_queue_items(superuser, organization) == 0

    @pytest.mark.skipif(
        os.environ.get("BYOK_TEST_CELLS") == "citus", reason="Citus cannot send the INSERT to a worker"
    )
    async def test_a_step_takes_a_few_transactions(
        self, database: Database, superuser: AsyncEngine, organization: str
    ) -> None:
        """Rows of which each has other dimensions take a hundred times as long as those of one group."""
        transactions, rows = 6, 5_000
        await ingest(database, organization, event(START))
        for number in range(transactions):
            await change(
                superuser,
                _COPY_IN_OWN_TRANSACTION.format(number=number),
                organization=organization,
                copies=rows,
            )

        async with UnitsOfWork(database).writing(organization) as uow:
            step = await uow[RollupRepository].roll_up()
            await uow.commit()

        assert step.has_more
        (rolled_up,) = await rolled_up_requests(superuser, organization)
        assert rolled_up <= ROWS_PER_STEP + rows
