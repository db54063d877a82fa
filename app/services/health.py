"""Whether each dependency answers right now."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

log = structlog.get_logger(__name__)

Ping = Callable[[], Awaitable[None]]


class Health:
    """Pings dependencies side by side, each within its bound."""

    def __init__(self, pings: Mapping[str, Ping], *, timeout_seconds: float = 3.0) -> None:
        self._pings = pings
        self._timeout_seconds = timeout_seconds

    async def check(self) -> dict[str, bool]:
        """Name of each dependency and whether it answers; why not is for the log."""
        answers = await asyncio.gather(*(self._answers(name, ping) for name, ping in self._pings.items()))
        return dict(zip(self._pings, answers, strict=True))

    async def _answers(self, name: str, ping: Ping) -> bool:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await ping()
        except Exception as error:  # noqa: BLE001  # any failure means: not now
            log.warning("dependency_down", dependency=name, error=type(error).__name__)
            return False
        return True
