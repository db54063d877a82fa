"""Shares of the event loop, so that no work delays other requests: slices of long work, and a budget of many short pieces."""

import asyncio
import time
from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Generator, Iterable
from contextvars import ContextVar
from itertools import islice
from typing import Final, TypeVar
from weakref import WeakKeyDictionary

Result = TypeVar("Result")
Item = TypeVar("Item")

# No task may use the event loop for much longer at a time.
SLICE_SECONDS: Final = 0.0005
# What the event loop and the kernel have used for a byte of a body before a task sees it: half a slice for 128 KiB.
_SECONDS_PER_RECEIVED_BYTE: Final = 2e-9
# A pause ends when an iteration of the event loop ran no other callback: it takes less time than this.
_IDLE_SECONDS: Final = 0.0003
# A pause ends after this time, however busy the loop is, so that long work always goes on.
_LONGEST_PAUSE_SECONDS: Final = 0.0025
# A request that has used more slices, 20 ms, is slow: beside short requests, all slow ones together use a quarter of a
# processor. A batch of some hundred events is not slow.
_SLICES_AT_FULL_PACE: Final = 40
# This number of them is forgiven each second, so that a stream of events that lasts for hours is not slow.
_FORGIVEN_PER_SECOND: Final = 10
_SLOW_PAUSE_SECONDS: Final = 0.002
# A request that has taken longer is not short: it waits for another server, such as a provider.
_SHORT_SECONDS: Final = 0.25
BUDGET_SECONDS: Final = 0.002
# More than have time in one iteration, even if each takes only 40 microseconds.
_MOST_WOKEN: Final = 64


# Held by the paused task that goes on next. The others wait for it in order. Tasks within a transaction never wait for it.
_next_in_line: WeakKeyDictionary[AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
# The same of slow requests, which wait here first.
_next_slow: WeakKeyDictionary[AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


class TimeSlice:
    """Measures how long a task has used the event loop since its last pause.

    Requests with little work come first. A task that has used its slice waits until every other paused task had its
    slice, and until no other callback is ready: otherwise ten long tasks would delay each step of a short one tenfold.
    Beside short requests, the task of a request that has used many slices also waits for four times its slice, so that
    these requests and the database have a processor too.

    A task that waits between its steps, for example for the next bytes of a stream or for its client, calls `suspend`
    before and `resume` after.

    Args:
        in_transaction: the task holds a database connection and perhaps locks, for which other requests wait. So its
            pauses are short: each lets only the callbacks run that are ready.
    """

    __slots__ = ("_began_at", "_in_transaction", "_left")

    def __init__(self, *, in_transaction: bool = False) -> None:
        self._in_transaction = in_transaction
        self._left = SLICE_SECONDS
        self._began_at = time.perf_counter()

    async def pause_if_used(self) -> None:
        """Let other tasks run if this one has used its slice. Call it after each small step of the work."""
        if time.perf_counter() - self._began_at >= self._left:
            await (asyncio.sleep(0) if self._in_transaction else _pause())
            self._left = SLICE_SECONDS
            self._began_at = time.perf_counter()

    def count_received(self, size: int) -> None:
        """Count the time that the server has used to receive these bytes of a body. Their client waits meanwhile."""
        self._left -= size * _SECONDS_PER_RECEIVED_BYTE

    def suspend(self) -> None:
        self._left -= time.perf_counter() - self._began_at

    def resume(self) -> None:
        self._began_at = time.perf_counter()


async def in_slices(steps: Generator[None, None, Result], *, in_transaction: bool = False) -> Result:
    """Run a function that yields after each small step of its work; returns its result."""
    time_slice = TimeSlice(in_transaction=in_transaction)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result
        await time_slice.pause_if_used()


async def list_in_slices(
    items: Iterable[Item], *, in_transaction: bool = False, items_per_step: int = 100
) -> list[Item]:
    """Collect items, each of which takes some microseconds to make."""
    time_slice, remaining, found = TimeSlice(in_transaction=in_transaction), iter(items), list[Item]()
    while step := list(islice(remaining, items_per_step)):
        found += step
        await time_slice.pause_if_used()
    return found


def line_of(loop: AbstractEventLoop) -> asyncio.Lock:
    """The lock that the paused task holds which goes on next."""
    return _lock_of(loop, _next_in_line)


def _lock_of(
    loop: AbstractEventLoop, locks: WeakKeyDictionary[AbstractEventLoop, asyncio.Lock]
) -> asyncio.Lock:
    lock = locks.get(loop)
    if lock is None:
        lock = locks[loop] = asyncio.Lock()
    return lock


async def _pause() -> None:
    loop = asyncio.get_running_loop()
    if _count_slice() > _SLICES_AT_FULL_PACE and has_short_request():
        async with _lock_of(loop, _next_slow):
            if has_short_request():
                await asyncio.sleep(_SLOW_PAUSE_SECONDS)
    async with line_of(loop):
        began_at = time.perf_counter()
        ends_at = began_at + _LONGEST_PAUSE_SECONDS
        while True:
            await asyncio.sleep(0)
            now = time.perf_counter()
            if now - began_at < _IDLE_SECONDS or now >= ends_at:
                return
            began_at = now


class RequestInProgress:
    """The request of a task and of the tasks that it starts. It is short until it pauses, or waits for a slot.

    Call `end` when its response begins, and when it ends without one.
    """

    __slots__ = ("arrived_at", "counted_at", "slices")

    def __init__(self) -> None:
        self.arrived_at = self.counted_at = time.perf_counter()
        self.slices = 0.0
        _current.set(self)
        _short[self] = None

    def end(self) -> None:
        _short.pop(self, None)


_current: ContextVar[RequestInProgress | None] = ContextVar("request_in_progress", default=None)
# In the order in which they arrived.
_short: dict[RequestInProgress, None] = {}


def waits_for_slot() -> None:
    """Note that the current request is not short: it must not slow the work that it waits for."""
    request = _current.get()
    if request is not None:
        request.end()


def _count_slice() -> float:
    """Note that the current request has used a slice. Returns how many it has used lately; 0 outside a request."""
    request = _current.get()
    if request is None:
        return 0
    request.end()
    at = time.perf_counter()
    forgiven = (at - request.counted_at) * _FORGIVEN_PER_SECOND
    request.slices = max(0.0, request.slices - forgiven) + 1
    request.counted_at = at
    return request.slices


def has_short_request() -> bool:
    """Whether a short request has arrived within the last moments and waits for its response."""
    newest = next(reversed(_short), None)
    return newest is not None and time.perf_counter() - newest.arrived_at < _SHORT_SECONDS


class _Waiter:
    """A task that waits in line. It may be woken several times."""

    __slots__ = ("future",)
    future: asyncio.Future[None]


class IterationBudget:
    """Limits how long one kind of work may use one iteration of the event loop.

    An iteration runs every callback that is ready, before it looks at timers and sockets again. If a hundred requests
    become ready together, and each has work of half a millisecond, all timers and other requests wait for 50 ms. Work
    that calls `wait` before each piece goes on in later iterations instead, in the order in which it came. A piece waits
    only if others of its kind have used the time, or its own task has. The limit is not exact: in the iteration in which
    the last piece in line goes on, new pieces have the time once more. `TimeSlice` is for the opposite: one task with
    long work.
    """

    __slots__ = ("_ends_at", "_is_scheduled", "_waiting", "_went_on", "_without_time", "_woken_at_once")

    def __init__(self) -> None:
        # When the time of this iteration ends. None: no piece has begun in it.
        self._ends_at: float | None = None
        self._is_scheduled = False
        self._waiting: deque[_Waiter] = deque()
        # To wake a task that finds no time costs as much as a short piece. So as many are woken as went on the last time.
        self._woken_at_once = _MOST_WOKEN
        self._went_on = 0  # of those that were woken, in this iteration
        self._without_time = 0

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
                    self._went_on += 1
                    return
                self._without_time += 1
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
        self._adapt()
        for waiter in islice(self._waiting, self._woken_at_once):
            if not waiter.future.done():
                waiter.future.set_result(None)
        if self._waiting:
            self._schedule()

    def _adapt(self) -> None:
        """Choose how many tasks to wake: one more than went on, if others found no time; else up to twice as many."""
        if self._without_time:
            self._woken_at_once = self._went_on + 1
        elif self._went_on >= self._woken_at_once:
            self._woken_at_once = min(_MOST_WOKEN, 2 * self._woken_at_once)
        self._went_on = self._without_time = 0
