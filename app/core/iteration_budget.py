"""Spreads many short pieces of work over iterations of the event loop, so that timers and other requests run in between."""

import asyncio
import time
from collections import deque
from itertools import islice
from typing import Final

BUDGET_SECONDS: Final = 0.002
# More than have time in one iteration, even if each takes only 40 microseconds.
_WOKEN_AT_ONCE: Final = 64


class _Waiter:
    """A task that waits in line. It may be woken several times."""

    __slots__ = ("future",)
    future: asyncio.Future[None]


class IterationBudget:
    """Limits how long one kind of work may use one iteration of the event loop.

    An iteration runs every callback that is ready, before it looks at timers and sockets again. If a hundred requests
    become ready together, and each has work of half a millisecond, all timers and other requests wait for 50 ms. Work
    that calls `wait` before each piece goes on in later iterations instead, in the order in which it came. No piece waits
    while the loop is idle. `TimeSlice` is for the opposite: one task with long work.
    """

    __slots__ = ("_ends_at", "_is_scheduled", "_waiting")

    def __init__(self) -> None:
        # When the time of this iteration ends. None: no piece has begun in it.
        self._ends_at: float | None = None
        self._is_scheduled = False
        self._waiting: deque[_Waiter] = deque()

    async def wait(self) -> None:
        """Return at once if this iteration has time left and no other piece waits for it, else in a later iteration."""
        if self._waiting or not self._has_time():
            await self._wait_in_line()

    async def _wait_in_line(self) -> None:
        loop, waiter = asyncio.get_running_loop(), _Waiter()
        self._waiting.append(waiter)
        try:
            while True:
                waiter.future = loop.create_future()
                await waiter.future
                if self._has_time():
                    return
        finally:
            self._waiting.remove(waiter)  # the first, unless its task is cancelled

    def _has_time(self) -> bool:
        now = time.perf_counter()
        if self._ends_at is None:
            self._ends_at = now + BUDGET_SECONDS
            self._schedule()
        return now < self._ends_at

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._on_next_iteration)

    def _on_next_iteration(self) -> None:
        self._is_scheduled = False
        self._ends_at = None
        for waiter in islice(self._waiting, _WOKEN_AT_ONCE):
            if not waiter.future.done():
                waiter.future.set_result(None)
        if self._waiting:
            self._schedule()
