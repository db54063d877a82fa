"""A circuit breaker for hosts that time out."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import httpx

from app.egress.exceptions import CircuitOpen

_MAX_TRACKED: Final = 4096


class CircuitBreaker:
    """Rejects requests after several consecutive timeouts; later lets them through until the next timeout.

    Many organizations may use the same gateway host, each with its own path. So a connect timeout counts
    against the host, but a response timeout counts only against its path. An organization cannot get a gateway
    suspended for others.

    Args:
        timeout_threshold: the number of consecutive timeouts that opens the circuit.
        open_seconds: how long it stays open.
        min_wait_seconds: a cancelled request counts as a timeout if it waited at least this long.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        timeout_threshold: int,
        open_seconds: float,
        min_wait_seconds: float = 3.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._timeout_threshold = timeout_threshold
        self._open_seconds = open_seconds
        self._min_wait_seconds = min_wait_seconds
        self._clock = clock
        self._timeouts: OrderedDict[str, _Timeouts] = OrderedDict()

    def raise_if_open(self, url: httpx.URL) -> None:
        """Call this before a request.

        Raises:
            CircuitOpen: the circuit of the host or the path is open.
        """
        now = self._clock()
        for key in (_host(url), _path(url)):
            timeouts = self._timeouts.get(key)
            if timeouts is not None and now < timeouts.open_until:
                raise CircuitOpen

    def record_failure(self, url: httpx.URL, error: BaseException, *, waited_seconds: float) -> None:
        """Count the error if it is a timeout."""
        match error:
            case httpx.PoolTimeout():
                pass
            case httpx.ConnectTimeout():
                self._count(_host(url))
            case httpx.TimeoutException():
                self._count(_path(url))
            case asyncio.CancelledError() if waited_seconds >= self._min_wait_seconds:
                self._count(_path(url))

    def record_success(self, url: httpx.URL) -> None:
        """Reset the counts of the host and the path."""
        self._timeouts.pop(_host(url), None)
        self._timeouts.pop(_path(url), None)

    def _count(self, key: str) -> None:
        timeouts = self._timeouts.setdefault(key, _Timeouts())
        self._timeouts.move_to_end(key)
        timeouts.count += 1
        if timeouts.count >= self._timeout_threshold:
            timeouts.open_until = self._clock() + self._open_seconds
        while len(self._timeouts) > _MAX_TRACKED:
            self._timeouts.popitem(last=False)


@dataclass(slots=True)
class _Timeouts:
    count: int = 0
    open_until: float = 0.0


def _host(url: httpx.URL) -> str:
    return url.raw_host.decode("ascii")  # `host` decodes A-labels, and raises for some


def _path(url: httpx.URL) -> str:
    return f"{_host(url)}{url.path}"
