"""The fold: every row once, whatever dies and whoever else is at it; reports exact all the while."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.database import Database, Session, Statement
from app.domain.errors import DatabaseUnavailable
from app.domain.reports import BucketWidth, Dimension, ReportQuery
from app.repositories.unit_of_work import UnitOfWork, UnitsOfWork
from app.services import Services
from app.services.folding import Folding
from app.services.reports import Reports
from tests.interruptions import Crash
from tests.ledger import Event, add, event, ingest
from tests.rows import change, fetch, make_due
from tests.waiting import until

START = datetime.now(UTC) - timedelta(days=3)
QUERY = ReportQuery(
    starting_at=START - timedelta(days=30),
    ending_at=START + timedelta(days=5),
    bucket_width=BucketWidth.DAY,
    zone=ZoneInfo("UTC"),
    group_by=(Dimension.USAGE_MODE, Dimension.MODEL),
    filters={},
)
_REPEATABLE = Statement(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
_TRUTH = Statement(
    sa.text(
        "SELECT count(*) AS requests, coalesce(sum(output_tokens), 0) AS output, coalesce(sum(cost), 0) AS cost,"
        " count(*) FILTER (WHERE cost IS NULL) AS unpriced FROM usage_event"
    )
)

Sums = tuple[int, int, int, int]


@pytest.fixture
def organization() -> str:
    return f"org_{uuid4().hex}"


def random_event(chance: random.Random) -> Event:
    return event(
        START + timedelta(seconds=chance.randrange(4 * 86400)),
        model=chance.choice(("a", "b")),
        feature=chance.choice((None, "x", "y")),
        output_tokens=chance.randrange(1000),
        cost=chance.choice((None, chance.randrange(10**12))),
    )


def sums_of(rows: Any) -> Sums:
    return (
        sum(row.requests for row in rows),
        sum(row.tokens.output for row in rows),
        sum(row.cost for row in rows),
        sum(row.unpriced_requests for row in rows),
    )


async def reported(units: UnitsOfWork, organization: str) -> Sums:
    return sums_of((await Reports(units).read(organization, QUERY, at_most=100)).rows)


async def truth(database: Database, organization: str) -> Sums:
    async with database.session(organization, read_only=True) as session:
        return await truth_in(session)


async def truth_in(session: Session) -> Sums:
    found = await session.first(_TRUTH)
    assert found is not None
    return int(found["requests"]), int(found["output"]), int(found["cost"]), int(found["unpriced"])


async def in_sums(owner: AsyncEngine, organization: str) -> set[int]:
    """How many requests each of the four tables holds; all should hold the same."""
    tables = ("usage_hour", "usage_day", "usage_hour_detail", "usage_day_detail")
    return {
        int(
            (
                await fetch(
                    owner,
                    f"SELECT coalesce(sum(requests), 0) AS n FROM {table} WHERE organization_id = :organization",
                    organization=organization,
                )
            )[0]["n"]
        )
        for table in tables
    }


async def items(owner: AsyncEngine, organization: str) -> int:
    found = await fetch(
        owner,
        "SELECT 1 FROM job_queue WHERE organization_id = :organization AND kind = 'fold_usage'",
        organization=organization,
    )
    return len(found)


class TestFold:
    async def test_leaves_nothing_to_do_once_everything_is_in_the_sums(
        self, services: Services, database: Database, owner: AsyncEngine, organization: str
    ) -> None:
        chance = random.Random(1)
        await ingest(database, organization, *(random_event(chance) for _ in range(50)))

        async def fold() -> int:
            await services.folding.fold(organization)
            return await items(owner, organization)

        await until(fold, lambda left: left == 0)

        assert await in_sums(owner, organization) == {50}
        assert await reported(UnitsOfWork(database), organization) == await truth(database, organization)

    async def test_again_counts_nothing_twice(
        self, services: Services, database: Database, owner: AsyncEngine, organization: str
    ) -> None:
        await ingest(database, organization, event(START))

        for _ in range(5):
            await services.folding.fold(organization)

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

            await services.folding.fold(organization)

            assert max(await in_sums(owner, organization)) <= 1
            assert await items(owner, organization) == 1
            assert (await reported(units, organization))[1] == 110
            await session.commit()
        assert (await reported(units, organization))[1] == 111

        async def fold() -> int:
            await services.folding.fold(organization)
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
            await services.folding.fold(organization)
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
            await services.folding.run()
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
                steps.append(await uow.rollups.fold())
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
            await Folding(Failing(database)).run()
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
        assert await services.folding.run(stop) == 0

        assert await items(owner, organization) == 1


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

    async def first(self, statement: Statement, /, **values: Any) -> Any:
        return await self._step(super().first(statement, **values))

    async def execute(self, statement: Statement, /, **values: Any) -> int:
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
                await Folding(dying).fold(organization)
                got_through = True
            except Crash:
                pass

            assert await reported(units, organization) == whole
            tail_or_nothing = await items(owner, organization)
            async with units.reading(organization) as uow:
                assert tail_or_nothing or not await uow.rollups.has_tail()

        assert at > 15
        await services.folding.fold(organization)
        assert await reported(units, organization) == await truth(database, organization)


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
        for _ in range(25):
            events = [random_event(chance) for _ in range(chance.randrange(1, 8))]
            async with self._database.session(self._organization) as session:
                await add(session, self._organization, events)
                if chance.random() < 0.8:
                    await session.commit()
                    self.accepted += len(events)
        self._running -= 1

    async def _fold(self) -> None:
        while self._running:
            await Folding(self._units).fold(self._organization)

    async def _compare(self) -> None:
        """The report and the ledger in one snapshot; and whatever was accepted before in the next report."""
        edges = [QUERY.starting_at, START + timedelta(days=5)]
        while self._running:
            known = self.accepted
            async with self._database.session(self._organization, read_only=True) as session:
                await session.rows(_REPEATABLE)
                uow = UnitOfWork(session, self._organization)
                rows = await uow.reports.rows(QUERY, edges, after=None, at_most=100)
                assert sums_of(rows) == await truth_in(session)
            assert (await reported(self._units, self._organization))[0] >= known
            self.compared += 1


class TestTogether:
    async def test_reports_are_exact_whoever_folds_and_ingests(
        self, services: Services, database: Database, owner: AsyncEngine, organization: str
    ) -> None:
        crowd = Crowd(database, organization, writers=4)

        await crowd.run(folders=3)

        assert crowd.compared > 5
        assert await reported(UnitsOfWork(database), organization) == await truth(database, organization)
        assert (await truth(database, organization))[0] == crowd.accepted

        async def fold_rest() -> int:
            await services.folding.fold(organization)
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
            await first.rollups.fold()
            await first.commit()
            await ingest(database, organization, event(START))
            async with units.writing(organization) as third:
                await third.rollups.fold()

                step = await second.rollups.fold()

            assert not step.is_any


class TestRestore:
    async def test_of_a_dump_goes_on_after_the_watermarks_are_reset(
        self, services: Services, database: Database, owner: AsyncEngine, organization: str
    ) -> None:
        units = UnitsOfWork(database)
        await ingest(database, organization, event(START, output_tokens=1))

        async def fold() -> set[int]:
            await services.folding.fold(organization)
            return await in_sums(owner, organization)

        await until(fold, lambda found: found == {1})
        await ingest(database, organization, event(START, output_tokens=10))
        # On the server of the dump, transactions had far larger numbers than here.
        await change(owner, "UPDATE usage_event SET ingest_xid = ingest_xid + 1000000000")
        await change(owner, "UPDATE usage_fold SET folded_before = folded_before + 1000000000")
        await change(
            owner, "DELETE FROM job_queue WHERE organization_id = :organization", organization=organization
        )

        async with owner.begin() as connection:
            await connection.execute(sa.text("SELECT reset_usage_watermarks()"))
        await ingest(database, organization, event(START, output_tokens=100))

        assert (await reported(units, organization))[:2] == (3, 111)
        assert await items(owner, organization) == 1
        await until(fold, lambda found: found == {3})
        assert (await reported(units, organization))[:2] == (3, 111)

    async def test_lets_an_owner_reset_them_who_is_bound_by_the_policies(
        self, database: Database, owner: AsyncEngine, organization: str
    ) -> None:
        await ingest(database, organization, event(START))
        async with owner.connect() as connection:
            for statement in (
                "CREATE ROLE plain_owner",
                *(
                    f"ALTER TABLE {it} OWNER TO plain_owner"
                    for it in ("usage_event", "usage_fold", "job_queue")
                ),
                "ALTER FUNCTION reset_usage_watermarks() OWNER TO plain_owner",
                "SET LOCAL ROLE plain_owner",
            ):
                await connection.execute(sa.text(statement))
            assert (await connection.execute(sa.text("SELECT count(*) FROM usage_event"))).scalar() == 0

            renumbered = (await connection.execute(sa.text("SELECT reset_usage_watermarks()"))).scalar()

            assert renumbered is not None
            assert renumbered > 0
            assert (await connection.execute(sa.text("SELECT count(*) FROM usage_event"))).scalar() == 0
            await connection.rollback()

    async def test_is_not_for_the_service(self, database: Database, organization: str) -> None:
        with pytest.raises(Exception, match="permission denied"):
            async with database.session(organization) as session:
                await session.first(Statement(sa.text("SELECT reset_usage_watermarks()")))
