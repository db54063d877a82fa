"""Keeps one slow host from taking the time and the connections of all others."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import httpx

from app.egress.exceptions import HostSuspended

_MAX_REMEMBERED: Final = 4096


class HostSlots:
    """At most so many requests to one host at a time; the next ones wait their turn."""

    def __init__(self, per_host: int) -> None:
        self._per_host = per_host
        self._slots: dict[str, _Slots] = {}

    async def take(self, host: str, timeout_seconds: float | None) -> None:
        """Every `take` that returns is followed by one `give_back`.

        Raises:
            httpx.PoolTimeout
        """
        slots = self._slots.setdefault(host, _Slots(free=asyncio.Semaphore(self._per_host)))
        slots.users += 1
        if not slots.free.locked():
            await slots.free.acquire()  # at once: the usual case needs no timer
            return
        try:
            async with asyncio.timeout(timeout_seconds):
                await slots.free.acquire()
        except BaseException as error:
            self._forget(host, slots)
            if isinstance(error, TimeoutError):
                raise httpx.PoolTimeout("Too many requests to this host are under way.") from None
            raise

    def give_back(self, host: str) -> None:
        slots = self._slots[host]
        slots.free.release()
        self._forget(host, slots)

    def _forget(self, host: str, slots: "_Slots") -> None:
        slots.users -= 1
        if slots.users == 0:
            del self._slots[host]


@dataclass(slots=True)
class _Slots:
    free: asyncio.Semaphore
    users: int = 0


class CircuitBreaker:
    """Leaves alone what hung several times in a row; then lets requests through until the next hang.

    Hosts are shared: many organizations sit behind one gateway, each on its own path. So a
    connection that hangs counts against the host, an answer that hangs against its path only,
    and nobody can get a gateway suspended for others.

    Args:
        hangs_before_pause: in a row.
        pause_seconds: how long.
        patience_seconds: a request that is cancelled counts as hanging if it waited so long.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        hangs_before_pause: int,
        pause_seconds: float,
        patience_seconds: float = 3.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hangs_before_pause = hangs_before_pause
        self._pause_seconds = pause_seconds
        self._patience_seconds = patience_seconds
        self._clock = clock
        self._hangs: OrderedDict[str, _Hangs] = OrderedDict()

    def check(self, url: httpx.URL) -> None:
        """Before a request.

        Raises:
            HostSuspended
        """
        now = self._clock()
        for key in (_host(url), _path(url)):
            hangs = self._hangs.get(key)
            if hangs is not None and now < hangs.paused_until:
                raise HostSuspended

    def failed(self, url: httpx.URL, error: BaseException, *, waited_seconds: float) -> None:
        match error:
            case httpx.PoolTimeout():
                pass
            case httpx.ConnectTimeout():
                self._count(_host(url))
            case httpx.TimeoutException():
                self._count(_path(url))
            case asyncio.CancelledError() if waited_seconds >= self._patience_seconds:
                self._count(_path(url))

    def answered(self, url: httpx.URL) -> None:
        self._hangs.pop(_host(url), None)
        self._hangs.pop(_path(url), None)

    def _count(self, key: str) -> None:
        hangs = self._hangs.setdefault(key, _Hangs())
        self._hangs.move_to_end(key)
        hangs.count += 1
        if hangs.count >= self._hangs_before_pause:
            hangs.paused_until = self._clock() + self._pause_seconds
        while len(self._hangs) > _MAX_REMEMBERED:
            self._hangs.popitem(last=False)


@dataclass(slots=True)
class _Hangs:
    count: int = 0
    paused_until: float = 0.0


def _host(url: httpx.URL) -> str:
    return url.host


def _path(url: httpx.URL) -> str:
    return f"{url.host}{url.path}"
