"""Polls until a condition holds, instead of sleeping for a fixed time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

Found = TypeVar("Found")


async def until(
    read: Callable[[], Awaitable[Found]], holds: Callable[[Found], bool], *, timeout_seconds: float = 10
) -> Found:
    """Call `read` repeatedly until `holds` accepts the value, and return that value."""
    async with asyncio.timeout(timeout_seconds):
        while not holds(found := await read()):  # noqa: ASYNC110  # polls a database, not a task
            await asyncio.sleep(0.01)
    return found


async def resolved(value: Found) -> Found:
    """Return the value, for a condition of `until` that needs no await."""
    return value
