"""Measures how late the event loop runs a timer, which shows calls that block the loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from app.observability.metrics import LOOP_LAG_SECONDS

TICK_SECONDS = 0.025


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
    while True:
        due_at = clock() + TICK_SECONDS
        await asyncio.sleep(TICK_SECONDS)
        LOOP_LAG_SECONDS.observe(max(0.0, clock() - due_at))
