"""Whether each dependency answers right now."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

Ping = Callable[[], Awaitable[None]]


class Health:
    """Pings dependencies side by side, each within its bound."""

    def __init__(self, pings: Mapping[str, Ping], *, timeout_seconds: float = 3.0) -> None:
        self._pings = pings
        self._timeout_seconds = timeout_seconds

    async def check(self) -> dict[str, bool]:
        """Name of each dependency and whether it answers. The causes are for the logs of their adapters."""
        answers = await asyncio.gather(*(self._answers(ping) for ping in self._pings.values()))
        return dict(zip(self._pings, answers, strict=True))

    async def _answers(self, ping: Ping) -> bool:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await ping()
        except Exception:  # noqa: BLE001  # any failure means: not now
            return False
        return True
