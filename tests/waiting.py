"""Waiting for a condition instead of for time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

Found = TypeVar("Found")


async def until(
    ask: Callable[[], Awaitable[Found]], holds: Callable[[Found], bool], *, at_most_seconds: float = 10
) -> Found:
    """Ask again and again until the answer is as it should be, and return it."""
    async with asyncio.timeout(at_most_seconds):
        while not holds(found := await ask()):  # noqa: ASYNC110  # it waits on a database, not on a task
            await asyncio.sleep(0.01)
    return found
