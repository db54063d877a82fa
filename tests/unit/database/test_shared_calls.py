"""Shared calls: which calls run together, which runs by itself, and which error each of them gets."""

import asyncio
from collections.abc import Sequence

import asyncpg
import pytest
import sqlalchemy as sa

from app.core.errors import DatabaseUnavailable
from app.database import shared_calls
from app.database.shared_calls import Call, SharedCalls
from app.database.statements import Query, Row
from app.observability.metrics import REGISTRY

QUERY = Query(sa.text("SELECT 1"))


class Database:
    """Records what runs. Everything waits until it may run; a shared transaction may have an error."""

    def __init__(self) -> None:
        self.together: list[list[str]] = []
        self.single: list[str] = []
        self.may_run = asyncio.Event()
        self.error: Exception | None = None
        self.single_error: Exception | None = None
        self.now = 100.0

    async def run_together(self, _query: Query, calls: Sequence[Call]) -> Sequence[Sequence[Row]]:
        self.together.append([call.organization_id for call in calls])
        await self.may_run.wait()
        if self.error is not None:
            raise self.error
        return [rows_of(call) for call in calls]

    async def run_singly(self, _query: Query, call: Call) -> Sequence[Row]:
        self.single.append(call.organization_id)
        await self.may_run.wait()
        if self.single_error is not None:
            raise self.single_error
        return rows_of(call)


@pytest.fixture(autouse=True)
def _a_lone_call_holds_its_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it ends, however long the tests wait for the processor."""
    monkeypatch.setattr(shared_calls, "SHARED_LOCK_TIMEOUT_MS", 60_000)


@pytest.fixture
def database() -> Database:
    return Database()


@pytest.fixture
def calls(database: Database) -> SharedCalls:
    return shared(database)


def shared(database: Database, *, timeout_seconds: float = 30) -> SharedCalls:
    return SharedCalls(
        QUERY,
        database.run_together,
        database.run_singly,
        timeout_seconds=timeout_seconds,
        clock=lambda: database.now,
    )


def rows_of(call: Call) -> Sequence[Row]:
    return [{"organization": call.organization_id}]


def call_of(organization: str, *, rows: int = 1) -> Call:
    return Call(organization_id=organization, arguments=["x", list(range(rows)), None])


Fetched = list[asyncio.Task[Sequence[Row]]]


async def started(calls: SharedCalls, *wanted: Call) -> Fetched:
    """Submit the calls one after the other; returns when all wait or run."""
    tasks = [asyncio.create_task(calls.fetch(call)) for call in wanted]
    for _ in range(4):
        await asyncio.sleep(0)
    return tasks


async def group(calls: SharedCalls, database: Database, *wanted: Call) -> Fetched:
    """Run calls that share a transaction, because two lone ones run before; returns their tasks.

    Each has a twin, for the other of the two queues: of two queues of the same length, the first one is chosen.
    """
    database.may_run.clear()
    fillers = await started(calls, call_of("filler_1"), call_of("filler_2"))
    tasks: Fetched = []
    for call in wanted:
        tasks += await started(calls, call)
        fillers += await started(calls, call_of(f"zz_{call.organization_id}"))
    database.may_run.set()
    await asyncio.gather(*fillers, return_exceptions=True)
    return tasks


def outcomes(outcome: str) -> float:
    return REGISTRY.get_sample_value("byok_shared_transactions_total", {"outcome": outcome}) or 0.0


class TestGroup:
    async def test_is_sorted_and_returns_to_each_call_its_rows(
        self, calls: SharedCalls, database: Database
    ) -> None:
        wanted = [call_of(it) for it in ("c", "a", "d", "b")]
        before = outcomes("committed")

        found = await asyncio.gather(*await group(calls, database, *wanted))

        assert found == [rows_of(call) for call in wanted]
        assert database.together == [["a", "b", "c", "d"], ["zz_a", "zz_b", "zz_c", "zz_d"]]
        assert database.single == ["filler_1", "filler_2"]
        assert outcomes("committed") == before + 2

    async def test_is_bounded_by_the_number_of_rows(self, calls: SharedCalls, database: Database) -> None:
        wanted = [call_of("a", rows=20), call_of("b", rows=12), call_of("c", rows=1), call_of("d", rows=31)]

        await asyncio.gather(*await group(calls, database, *wanted))

        assert [it for it in database.together if "zz_a" not in it] == [["a", "b"], ["c", "d"]]

    async def test_that_is_too_large_runs_singly(self, calls: SharedCalls, database: Database) -> None:
        await asyncio.gather(*await group(calls, database, call_of("a", rows=500), call_of("b", rows=500)))

        assert sorted(database.single) == ["a", "b", "filler_1", "filler_2"]


class TestLoneCall:
    async def test_that_takes_long_lets_the_next_group_begin(
        self, calls: SharedCalls, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shared_calls, "SHARED_LOCK_TIMEOUT_MS", 20)
        lone = await started(calls, call_of("a"), call_of("b"))
        waiting = await started(calls, *(call_of(it) for it in ("c", "d", "e", "f")))
        assert database.together == []

        async with asyncio.timeout(10):
            while len(database.together) < 2:  # noqa: ASYNC110  # no event of its own
                await asyncio.sleep(0)

        assert not any(it.done() for it in [*lone, *waiting])
        database.may_run.set()
        assert await asyncio.gather(*lone) == [rows_of(call_of("a")), rows_of(call_of("b"))]
        await asyncio.gather(*waiting)

    async def test_raises_its_error(self, calls: SharedCalls, database: Database) -> None:
        database.may_run.set()
        database.single_error = asyncpg.LockNotAvailableError("")

        with pytest.raises(asyncpg.LockNotAvailableError):
            await calls.fetch(call_of("a"))

        assert (database.single, database.together) == (["a"], [])

    async def test_is_cancelled_with_its_caller(
        self, calls: SharedCalls, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shared_calls, "SHARED_LOCK_TIMEOUT_MS", 1)
        (caller,) = await started(calls, call_of("a"))
        async with asyncio.timeout(10):
            while calls._groups.number_waiting("0") >= 0:  # noqa: ASYNC110  # no event of its own
                await asyncio.sleep(0)
        await started(calls)  # the caller now awaits its own call
        (lone,) = calls._lone

        caller.cancel()
        await asyncio.wait([caller, lone], timeout=10)

        assert lone.cancelled()


class TestRolledBack:
    @pytest.mark.parametrize(
        ("error", "outcome"),
        [
            (asyncpg.LockNotAvailableError(""), "lock_timeout"),
            (asyncpg.UntranslatableCharacterError(""), "statement_failed"),
            (asyncpg.DeadlockDetectedError(""), "statement_failed"),
            (asyncpg.ConnectionDoesNotExistError(""), "connection_lost"),
            (ConnectionResetError(), "connection_lost"),
        ],
    )
    async def test_runs_each_call_by_itself(
        self, calls: SharedCalls, database: Database, error: Exception, outcome: str
    ) -> None:
        database.error = error
        before = outcomes(outcome)

        found = await asyncio.gather(*await group(calls, database, call_of("b"), call_of("a")))

        assert found == [rows_of(call_of("b")), rows_of(call_of("a"))]
        assert sorted(database.single) == ["a", "b", "filler_1", "filler_2", "zz_a", "zz_b"]
        assert outcomes(outcome) == before + 2

    @pytest.mark.parametrize(
        "error", [TimeoutError(), asyncpg.QueryCanceledError(""), DatabaseUnavailable(), LookupError()]
    )
    async def test_for_any_other_reason_tries_nothing_again(
        self, calls: SharedCalls, database: Database, error: Exception
    ) -> None:
        database.error = error
        before = outcomes("failed")

        found = await asyncio.gather(
            *await group(calls, database, call_of("a"), call_of("b")), return_exceptions=True
        )

        assert found == [error, error]
        assert database.single == ["filler_1", "filler_2"]
        assert outcomes("failed") == before + 2

    async def test_by_slow_locks_keeps_its_organizations_apart_for_a_second(
        self, calls: SharedCalls, database: Database
    ) -> None:
        database.error = asyncpg.LockNotAvailableError("")
        await asyncio.gather(*await group(calls, database, call_of("a"), call_of("b")))
        database.error = None
        database.together.clear()
        database.single.clear()

        database.now += 0.9
        await asyncio.gather(*await group(calls, database, *(call_of(it) for it in "acbd")))
        assert database.together == [["c", "d"], ["zz_c", "zz_d"]]
        assert sorted(database.single) == ["a", "b", "filler_1", "filler_2", "zz_a", "zz_b"]

        database.now += 0.2
        await asyncio.gather(*await group(calls, database, call_of("a"), call_of("b")))
        assert database.together[-2:] == [["a", "b"], ["zz_a", "zz_b"]]

    async def test_by_an_error_of_a_statement_keeps_nothing_apart(
        self, calls: SharedCalls, database: Database
    ) -> None:
        database.error = asyncpg.UntranslatableCharacterError("")
        await asyncio.gather(*await group(calls, database, call_of("a"), call_of("b")))
        database.error = None

        await asyncio.gather(*await group(calls, database, call_of("a"), call_of("b")))

        assert database.together[-2:] == [["a", "b"], ["zz_a", "zz_b"]]


class TestOrganizationsApart:
    def test_are_forgotten_after_a_second_and_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shared_calls, "_MOST_APART", 3)
        now = 0.0
        apart = shared_calls._OrganizationsApart(lambda: now)

        apart.add(["a", "b"])
        now = 0.5
        apart.add(["a", "c", "d"])
        assert [it in apart for it in "abcd"] == [True, False, True, True]
        now = 1.2
        assert [it in apart for it in "abcd"] == [True, False, True, True]
        now = 1.6
        apart.add(["e"])
        assert list(apart._until) == ["e"]


class TestWaiting:
    async def test_has_a_time_limit(self, database: Database) -> None:
        calls = shared(database, timeout_seconds=0.05)
        running = await running_groups(calls, database)
        waiting = await started(calls, call_of("a"), call_of("b"))

        assert await errors(*waiting) == [DatabaseUnavailable] * 2

        database.may_run.set()
        assert await errors(*running) == []
        assert not any({"a", "b"} & {*together} for together in database.together)

    async def test_is_limited_to_a_number_of_calls(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shared_calls, "_MOST_WAITING", 2)
        calls = shared(database)
        running = await running_groups(calls, database)
        waiting = await started(calls, *(call_of(it) for it in "abcd"))
        (refused,) = await started(calls, call_of("e"))

        assert await errors(refused) == [DatabaseUnavailable]

        database.may_run.set()
        assert await errors(*running, *waiting) == []


async def running_groups(calls: SharedCalls, database: Database) -> Fetched:
    """Let as many groups run as can run at a time."""
    lone = await started(calls, call_of("lone_1"), call_of("lone_2"))
    tasks = await started(calls, *(call_of(f"org_{number}") for number in range(4)))
    database.may_run.set()
    database.may_run.clear()
    await asyncio.gather(*lone)
    async with asyncio.timeout(10):
        while len(database.together) < 2:  # noqa: ASYNC110  # no event of its own
            await asyncio.sleep(0)
    return tasks


async def errors(*tasks: asyncio.Task[Sequence[Row]]) -> list[type[BaseException]]:
    found = await asyncio.gather(*tasks, return_exceptions=True)
    return [type(it) for it in found if isinstance(it, BaseException)]
