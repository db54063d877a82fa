"""Whether each dependency answers right now."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

from app.core.errors import ByokError

log = structlog.get_logger(__name__)

Ping = Callable[[], Awaitable[None]]


class HealthService:
    """Pings dependencies side by side, each within its bound."""

    def __init__(self, pings: Mapping[str, Ping], *, timeout_seconds: float = 3.0) -> None:
        self._pings = pings
        self._timeout_seconds = timeout_seconds

    async def check(self) -> dict[str, str | None]:
        """Name of each dependency, and the code of what is wrong with it; None where it answers."""
        troubles = await asyncio.gather(*(self._trouble(name, ping) for name, ping in self._pings.items()))
        return dict(zip(self._pings, troubles, strict=True))

    async def _trouble(self, name: str, ping: Ping) -> str | None:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await ping()
        except Exception as error:  # noqa: BLE001  # any failure means: not now
            code = _code(name, error)
            log.warning("dependency_down", dependency=name, code=code, error=type(error).__name__)
            return code
        return None


def _code(name: str, error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"{name}_timeout"
    return error.code if isinstance(error, ByokError) else ByokError.code
