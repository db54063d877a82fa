"""How late the event loop comes back: the one number that shows a call that blocks it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from app.observability.metrics import LOOP_LAG_SECONDS

TICK_SECONDS = 0.025


@asynccontextmanager
async def watched_loop() -> AsyncIterator[None]:
    """Measures while the block runs."""
    watch = asyncio.create_task(_watch(), name="event loop lag")
    try:
        yield
    finally:
        watch.cancel()
        with suppress(asyncio.CancelledError):
            await watch


async def _watch() -> None:
    clock = asyncio.get_running_loop().time
    while True:
        due_at = clock() + TICK_SECONDS
        await asyncio.sleep(TICK_SECONDS)
        LOOP_LAG_SECONDS.observe(max(0.0, clock() - due_at))
