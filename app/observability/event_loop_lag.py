"""Measures how late the event loop runs a timer, which shows calls that block the loop, and a machine that is overloaded."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

from app.observability.metrics import LOOP_BUSY_LAG_SECONDS, LOOP_LAG_SECONDS

TICK_SECONDS = 0.025
# Of the thread that opens it: nanoseconds on a processor, nanoseconds in which it was ready and waited for one, turns.
_SCHEDULER = Path("/proc/thread-self/schedstat")
_LINE_BYTES = 100


@asynccontextmanager
async def measure_event_loop_lag() -> AsyncIterator[None]:
    """Record the lag every 25 ms while the block runs."""
    measuring = asyncio.create_task(_measure(), name="event loop lag")
    try:
        yield
    finally:
        measuring.cancel()
        with suppress(asyncio.CancelledError):
            await measuring


async def _measure() -> None:
    clock = asyncio.get_running_loop().time
    with ExitStack() as resources:
        waits = _ProcessorWaits(resources)
        while True:
            due_at = clock() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            lag = max(0.0, clock() - due_at)
            LOOP_LAG_SECONDS.observe(lag)
            waited = waits.since_last()
            if waited is not None:
                LOOP_BUSY_LAG_SECONDS.observe(max(0.0, lag - waited))


class _ProcessorWaits:
    """How long this thread was ready to run and waited for a processor. Only Linux reports it."""

    def __init__(self, resources: ExitStack) -> None:
        self._file: int | None = None
        self._total = 0.0
        with suppress(OSError):
            self._file = resources.enter_context(_SCHEDULER.open("rb")).fileno()
        self.since_last()

    def since_last(self) -> float | None:
        """The seconds since the last call. None: not known."""
        if self._file is None:
            return None
        try:
            total = int(os.pread(self._file, _LINE_BYTES, 0).split()[1]) / 1e9
        except (OSError, ValueError, IndexError):  # a sandbox may have an empty file
            self._file = None
            return None
        before, self._total = self._total, total
        return total - before
