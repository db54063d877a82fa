"""Calls of a database function for different organizations that share a round trip, a transaction and a commit."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import asyncpg

from app.core.errors import DatabaseUnavailable
from app.database.driver_errors import is_dead
from app.database.group_commit import GroupCommit, WaitLimits
from app.database.statements import SHARED_LOCK_TIMEOUT_MS, Query, Row
from app.observability.metrics import SHARED_TRANSACTIONS

# While these transactions run, further calls wait and share the next one. With more, groups are smaller. With one,
# PostgreSQL would be idle while this process handles the results.
_CONCURRENT = 2
# Bounds how long the rows of one organization stay locked for the calls of others.
_LARGEST_WEIGHT = 32
# Bounds memory while the database is slow. In the time limit of waiting, it usually runs far more calls.
_MOST_WAITING = 1000
# How long the organizations of a group whose locks were slow do not share, and how many are remembered.
_SECONDS_APART = 1.0
_MOST_APART = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """The arguments of one call, and the organization whose rows it sees.

    An organization should have only one call at a time in a process, or its calls wait for each other's locks in two
    transactions. So there is one `ReservationService` per process, which groups the reservations of an organization.
    """

    organization_id: str
    arguments: Sequence[Any]

    @property
    def weight(self) -> int:
        """How many rows it asks for: the length of its array arguments, or 1 without any."""
        return max((len(it) for it in self.arguments if isinstance(it, list)), default=1)


RunTogether: TypeAlias = Callable[[Query, Sequence[Call]], Awaitable[Sequence[Sequence[Row]]]]
# A call that runs by itself may still be running.
_Found: TypeAlias = "Sequence[Row] | asyncio.Task[Sequence[Row]]"
RunSingly: TypeAlias = Callable[[Query, Call], Awaitable[Sequence[Row]]]


class _NotShared(Exception):
    """The shared transaction was rolled back: each of its calls has to run by itself."""


class SharedCalls:
    """Runs calls that arrive while others run together, in one transaction.

    Each call sets its own organization before it reads or writes, so row-level security holds. If the transaction is
    rolled back because one call failed or waited long for a lock, each of them runs by itself. If the database did not
    respond before its timeout, none is tried again: that would multiply the load of a database that is overloaded.

    Args:
        statement: calls the function.
        run_together: runs calls in one transaction, each with a short limit for a lock; returns the rows of each.
        run_singly: runs one call with the usual limits; returns its rows.
        timeout_seconds: how long a call may wait for a group.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        statement: Query,
        run_together: RunTogether,
        run_singly: RunSingly,
        *,
        timeout_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._statement = statement
        self._run_together = run_together
        self._run_singly = run_singly
        self._apart = _OrganizationsApart(clock)
        self._lone: set[asyncio.Task[Sequence[Row]]] = set()
        self._groups: GroupCommit[Call, _Found] = GroupCommit(
            self._run_group,
            at_most=_LARGEST_WEIGHT,
            weight=lambda call: call.weight,
            limits=WaitLimits(seconds=timeout_seconds, at_most=_MOST_WAITING, error=DatabaseUnavailable),
        )

    async def fetch(self, call: Call) -> Sequence[Row]:
        """Return the rows of the call.

        Raises:
            DatabaseUnavailable: too many calls wait, or this one waited too long.
            Exception: the error of the call or of its group.
        """
        if call.organization_id in self._apart:
            return await self._run_singly(self._statement, call)
        key = min(map(str, range(_CONCURRENT)), key=self._groups.number_waiting)
        try:
            found = await self._groups.submit(key, call)
        except _NotShared:
            return await self._run_singly(self._statement, call)
        return found if isinstance(found, Sequence) else await found

    async def _run_group(self, _key: str, calls: Sequence[Call]) -> Sequence["_Found | Exception"]:
        if len(calls) == 1:
            return [await self._start_singly(calls[0])]
        # All processes lock the rows of organizations in the same order, so that they cannot deadlock.
        order = sorted(range(len(calls)), key=lambda at: calls[at].organization_id)
        try:
            found = await self._run_together(self._statement, [calls[at] for at in order])
        except Exception as error:  # noqa: BLE001  # each caller raises it, or the error of its own call
            return [self._rolled_back(error, calls)] * len(calls)
        SHARED_TRANSACTIONS.labels("committed").inc()
        by_place = dict(zip(order, found, strict=True))
        return [by_place[at] for at in range(len(calls))]

    async def _start_singly(self, call: Call) -> "asyncio.Task[Sequence[Row]]":
        """Start the call. The next group need not wait for its end longer than for a lock of another group."""
        task = asyncio.ensure_future(self._run_singly(self._statement, call))
        self._lone.add(task)
        task.add_done_callback(self._forget)
        await asyncio.wait([task], timeout=SHARED_LOCK_TIMEOUT_MS / 1000)
        return task

    def _forget(self, task: "asyncio.Task[Sequence[Row]]") -> None:
        self._lone.discard(task)
        if not task.cancelled():
            task.exception()  # if the caller has left, asyncio would log it

    def _rolled_back(self, error: Exception, calls: Sequence[Call]) -> Exception:
        """Count the outcome; returns what each caller raises."""
        outcome = _outcome(error)
        SHARED_TRANSACTIONS.labels(outcome).inc()
        if outcome == "lock_timeout":
            self._apart.add([call.organization_id for call in calls])
        return error if outcome == "failed" else _NotShared()


def _outcome(error: Exception) -> str:
    if isinstance(error, asyncpg.LockNotAvailableError):
        return "lock_timeout"
    if isinstance(error, TimeoutError | asyncpg.QueryCanceledError):
        return "failed"  # a second attempt would take as long
    if is_dead(error):
        return "connection_lost"
    return "statement_failed" if isinstance(error, asyncpg.PostgresError) else "failed"


class _OrganizationsApart:
    """Organizations that share no transactions for a while, so that slow locks of one do not keep undoing those of others."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}  # the earliest first

    def __contains__(self, organization_id: str) -> bool:
        return self._until.get(organization_id, 0.0) > self._clock()

    def add(self, organizations: Collection[str]) -> None:
        now = self._clock()
        for organization in organizations:
            self._until.pop(organization, None)
            self._until[organization] = now + _SECONDS_APART
        while len(self._until) > _MOST_APART or next(iter(self._until.values())) <= now:
            del self._until[next(iter(self._until))]


async def fetch_together(driver: Any, statement: Query, calls: Sequence[Call]) -> Sequence[Sequence[Row]]:
    """Run a SELECT for each call, all in one transaction and one round trip; return the rows of each."""
    rows = await driver.fetchmany(
        statement.shared_text,
        [(*call.arguments, call.organization_id, number) for number, call in enumerate(calls)],
    )
    found: list[list[Row]] = [[] for _ in calls]
    for row in rows:
        found[row["call_number"]].append(row)
    return found
