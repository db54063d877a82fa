"""Limits the number of concurrent requests to one host."""

import asyncio
from dataclasses import dataclass

import httpx


class HostConcurrencyLimit:
    """A concurrency limit for each host, so that one slow host cannot use all connections.

    Args:
        per_host: the number of concurrent requests to one host. Further requests wait for a slot.
    """

    def __init__(self, per_host: int) -> None:
        self._per_host = per_host
        self._slots: dict[str, _Slots] = {}

    async def acquire(self, host: str, timeout_seconds: float | None) -> None:
        """Wait for a slot. The caller must `release` it.

        Raises:
            httpx.PoolTimeout
        """
        slots = self._slots.setdefault(host, _Slots(free=asyncio.Semaphore(self._per_host)))
        slots.users += 1
        if not slots.free.locked():
            await slots.free.acquire()  # does not wait: the usual case needs no timer
            return
        try:
            async with asyncio.timeout(timeout_seconds):
                await slots.free.acquire()
        except BaseException as error:
            self._leave(host, slots)
            if isinstance(error, TimeoutError):
                raise httpx.PoolTimeout("Too many concurrent requests to this host.") from None
            raise

    def release(self, host: str) -> None:
        """Return the slot."""
        slots = self._slots[host]
        slots.free.release()
        self._leave(host, slots)

    def _leave(self, host: str, slots: "_Slots") -> None:
        slots.users -= 1
        if slots.users == 0:
            del self._slots[host]


@dataclass(slots=True)
class _Slots:
    free: asyncio.Semaphore
    users: int = 0  # requests that hold or wait for a slot
