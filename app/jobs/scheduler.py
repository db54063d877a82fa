"""Runs background jobs at intervals, with jitter, until stopped. A job may run in several instances at once."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import structlog

from app.core.errors import Unavailable

log = structlog.get_logger("byok.jobs")

Job = Callable[[], Awaitable[object]]


async def repeat(name: str, job: Job, *, seconds: float, stop: asyncio.Event) -> None:
    """Run the job now and then every `seconds`, plus or minus 20 percent, until `stop` is set.

    A failed job runs again at the next interval; a failure never ends the loop.
    """
    while not stop.is_set():
        try:
            await job()
        except Unavailable as error:
            log.warning("job_postponed", job=name, code=error.code)
        except Exception as error:  # noqa: BLE001  # logged by type: the message may quote input
            log.error("job_failed", job=name, error=type(error).__name__)  # noqa: TRY400
        pause = seconds * random.uniform(0.8, 1.2)  # noqa: S311  # spreads instances over time; not a secret
        try:
            async with asyncio.timeout(pause):
                await stop.wait()
        except TimeoutError:
            continue
