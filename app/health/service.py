"""Checks whether each dependency responds."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

from app.core.errors import ByokError

log = structlog.get_logger("byok.health")

Ping = Callable[[], Awaitable[None]]


class HealthService:
    """Pings all dependencies concurrently, each with a timeout.

    Attributes:
        is_shutting_down: whether this instance refuses new relayed calls, so that a load balancer must choose another one.
    """

    def __init__(self, pings: Mapping[str, Ping], *, timeout_seconds: float = 3.0) -> None:
        self._pings = pings
        self._timeout_seconds = timeout_seconds
        self.is_shutting_down: Callable[[], bool] = lambda: False

    async def check(self) -> dict[str, str | None]:
        """Return an error code for each dependency by name, or None if it responds."""
        codes = await asyncio.gather(*(self._error_code(name, ping) for name, ping in self._pings.items()))
        found = dict(zip(self._pings, codes, strict=True))
        return found | {"process": "shutting_down"} if self.is_shutting_down() else found

    async def _error_code(self, name: str, ping: Ping) -> str | None:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await ping()
        except Exception as error:  # noqa: BLE001  # every failure means that the dependency is down
            code = _code_of(name, error)
            log.warning("dependency_down", dependency=name, code=code, error=type(error).__name__)
            return code
        return None


def _code_of(name: str, error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"{name}_timeout"
    return error.code if isinstance(error, ByokError) else ByokError.code
