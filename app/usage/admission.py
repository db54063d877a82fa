"""Bounded turns: how much of one kind of work may be under way at once, and how long it waits for its turn."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.core.errors import IngestionOverloaded


class AdmissionQueue:
    """Keeps bulk work from taking every connection that the rest of the API needs.

    Args:
        at_once: how many may run.
        patience_seconds: how long one waits before it is told to come back.
        at_most_waiting: how many may wait.
    """

    def __init__(self, at_once: int, *, patience_seconds: float, at_most_waiting: int) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._patience_seconds = patience_seconds
        self._at_most_waiting = at_most_waiting
        self._waiting = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Raises IngestionOverloaded where none comes in time."""
        await self._wait()
        try:
            yield
        finally:
            self._free.release()

    async def _wait(self) -> None:
        if self._waiting >= self._at_most_waiting:
            raise IngestionOverloaded
        self._waiting += 1
        try:
            async with asyncio.timeout(self._patience_seconds):
                await self._free.acquire()
        except TimeoutError:
            raise IngestionOverloaded from None
        finally:
            self._waiting -= 1
