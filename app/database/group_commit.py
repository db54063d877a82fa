"""Runs work that waits for the same key together, so that one transaction and one commit serve several requests."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from app.core.errors import ByokError

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Item, Result]):
    """An item, the future of its result, and the timer that ends its wait."""

    item: Item
    future: asyncio.Future[Result]
    timer: asyncio.TimerHandle | None = None

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def finish(self, result: Result | Exception) -> None:
        if isinstance(result, Exception):
            self.fail(result)
        elif not self.future.done():
            self.future.set_result(result)


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitLimits:
    """How long and how many items of one key may wait for their group to start, and the error for the others."""

    seconds: float
    at_most: int
    error: Callable[[], Exception]


class GroupCommit(Generic[Item, Result]):
    """Collects the items that arrive while the previous group of the same key runs, and runs them as the next group.

    A lone item runs at once. Each key has at most one running group in this process; other processes have their own,
    so `run` must be exact under concurrency.

    Args:
        run: runs the items of one group in one transaction; returns a result, or an error to raise, for each item.
        at_most: the largest total weight of a group. An item with a larger weight gets its own group.
        weight: the weight of an item.
        limits: of waiting. None: an item waits until the groups before it have run.
    """

    def __init__(
        self,
        run: Callable[[str, Sequence[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        at_most: int,
        weight: Callable[[Item], int] = lambda _: 1,
        limits: WaitLimits | None = None,
    ) -> None:
        self._run = run
        self._at_most = at_most
        self._weight = weight
        self._limits = limits
        self._waiting: dict[str, list[_Waiting[Item, Result]]] = {}
        # A strong reference: the event loop has only weak ones.
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, key: str, item: Item) -> Result:
        """Run the item in a group; returns its result or raises its error.

        If the caller is cancelled before the group starts, the item is dropped.

        Raises:
            Exception: the error of the limits, if too many items of the key wait or the item waited too long.
        """
        waiting = _Waiting[Item, Result](item, asyncio.get_running_loop().create_future())
        queue = self._waiting.get(key)
        if queue is None:
            self._waiting[key] = [waiting]
            task = asyncio.create_task(self._run_groups(key))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._limit_wait(waiting, len(queue))
            queue.append(waiting)
        return await waiting.future

    def number_waiting(self, key: str) -> int:
        """How many items of the key wait for a group; -1 if none runs, so that the next item runs at once."""
        waiting = self._waiting.get(key)
        return -1 if waiting is None else len(waiting)

    def _limit_wait(self, waiting: _Waiting[Item, Result], others: int) -> None:
        limits = self._limits
        if limits is None:
            return
        if limits.seconds <= 0 or others >= limits.at_most:
            raise limits.error()
        loop = asyncio.get_running_loop()
        waiting.timer = loop.call_later(limits.seconds, lambda: waiting.fail(limits.error()))

    async def _run_groups(self, key: str) -> None:
        """Run groups until no item of this key waits."""
        try:
            while group := self._next_group(key):
                await self._run_group(key, group)
        finally:
            for waiting in self._waiting.pop(key, ()):
                waiting.future.cancel()  # only if this task was cancelled

    def _next_group(self, key: str) -> list[_Waiting[Item, Result]]:
        queue = [waiting for waiting in self._waiting[key] if not waiting.future.done()]
        size, weight = 0, 0
        for waiting in queue:
            weight += self._weight(waiting.item)
            if size and weight > self._at_most:
                break
            size += 1
        self._waiting[key] = queue[size:]
        group = queue[:size]
        for waiting in group:
            if waiting.timer is not None:
                waiting.timer.cancel()
        return group

    async def _run_group(self, key: str, group: Sequence[_Waiting[Item, Result]]) -> None:
        try:
            results = await self._run(key, [waiting.item for waiting in group])
        except Exception as error:  # noqa: BLE001  # each caller raises it
            if len(group) > 1 and not isinstance(error, ByokError):
                # One item may be at fault, and the transaction was rolled back: run each one by itself.
                for one in group:
                    await self._run_group(key, [one])
                return
            results = [error] * len(group)
        except BaseException:
            for waiting in group:
                waiting.future.cancel()
            raise
        for waiting, result in zip(group, results, strict=True):
            waiting.finish(result)
