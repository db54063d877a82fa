"""Notices when the process has no free descriptor, so that it cannot accept connections.

The event loop does not report it: it accepts each new connection and closes it at once.
"""

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog

from app.observability.metrics import ACCEPTING_STOPPED

TICK_SECONDS = 0.5
_LOG_SECONDS = 10.0

log = structlog.get_logger("byok.connections")


@asynccontextmanager
async def watch_descriptors() -> AsyncIterator[None]:
    """Look for a free descriptor every half second while the block runs."""
    watching = asyncio.create_task(_watch(), name="descriptors")
    try:
        yield
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


async def _watch() -> None:
    clock = asyncio.get_running_loop().time
    logged_at = clock() - _LOG_SECONDS
    while True:
        await asyncio.sleep(TICK_SECONDS)
        if is_descriptor_free():
            continue
        ACCEPTING_STOPPED.inc()
        if clock() - logged_at >= _LOG_SECONDS:
            logged_at = clock()
            log.error("accepting_stopped", reason="no free descriptor")


def is_descriptor_free() -> bool:
    """Whether the process, and the machine, can open another descriptor."""
    try:
        os.close(os.dup(0))
    except OSError as error:
        return error.errno not in {errno.EMFILE, errno.ENFILE}
    return True
