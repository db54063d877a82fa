"""Calls of a database function for different organizations that share a round trip, a transaction and a commit."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from app.database.group_commit import GroupCommit
from app.database.statements import Query, Row

# While these transactions run, further calls wait and share the next one. With more, groups are smaller. With one,
# PostgreSQL would be idle while this process handles the results.
_CONCURRENT = 2
# Bounds how long the rows of one organization stay locked for the calls of others.
_LARGEST_GROUP = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """The arguments of one call, and the organization whose rows it sees."""

    organization_id: str
    arguments: Sequence[Any]


RunCalls: TypeAlias = Callable[[Query, Sequence[Call]], Awaitable[Sequence[Sequence[Row]]]]


class _NotShared(Exception):
    """The shared transaction was rolled back: each of its calls has to run by itself."""


class SharedCalls:
    """Runs calls that arrive while others run together, in one transaction.

    Each call sets its own organization before it reads or writes, so row-level security holds. One that has to wait for a lock for
    long, or fails, rolls all of them back; then each runs by itself, so no organization waits for the locks of another.

    Args:
        statement: calls the function.
        run: runs the calls in one transaction, each with a short limit for a lock; returns the rows of each.
    """

    def __init__(self, statement: Query, run: RunCalls) -> None:
        self._statement = statement
        self._run = run
        self._groups = GroupCommit(self._run_group, at_most=_LARGEST_GROUP)

    async def fetch(self, call: Call) -> Sequence[Row] | None:
        """Return the rows of the call. None: it was rolled back, so run it by itself."""
        key = min(map(str, range(_CONCURRENT)), key=self._groups.number_waiting)
        try:
            return await self._groups.submit(key, call)
        except _NotShared:
            return None

    async def _run_group(self, _key: str, calls: Sequence[Call]) -> Sequence[Sequence[Row] | Exception]:
        # All processes lock the rows of organizations in the same order, so that they cannot deadlock.
        order = sorted(range(len(calls)), key=lambda at: calls[at].organization_id)
        try:
            found = await self._run(self._statement, [calls[at] for at in order])
        except Exception:  # noqa: BLE001  # the call that also fails by itself raises its error
            return [_NotShared()] * len(calls)
        by_place = dict(zip(order, found, strict=True))
        return [by_place[at] for at in range(len(calls))]
