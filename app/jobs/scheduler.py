"""Runs background work at intervals, with jitter, until told to stop. Every job may run in many instances at once."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import structlog

from app.core.errors import Unavailable

log = structlog.get_logger(__name__)

Job = Callable[[], Awaitable[object]]


async def repeat(name: str, job: Job, *, seconds: float, stop: asyncio.Event) -> None:
    """Run the job now and then every `seconds`, give or take a fifth, until `stop` is set.

    A job that fails is tried again next time: nothing here may end for good.
    """
    while not stop.is_set():
        try:
            await job()
        except Unavailable as error:
            log.warning("job_postponed", job=name, code=error.code)
        except Exception as error:  # noqa: BLE001  # told by name: its text may quote what it was given
            log.error("job_failed", job=name, error=type(error).__name__)  # noqa: TRY400
        pause = seconds * random.uniform(0.8, 1.2)  # noqa: S311  # spreads instances; no secret
        try:
            async with asyncio.timeout(pause):
                await stop.wait()
        except TimeoutError:
            continue
