"""The relay of one instance: what all its requests share, and how it stops."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

import structlog

from app.observability.metrics import RELAY_BODY_BYTES, RELAY_CONNECTIONS, RELAY_OPEN
from app.relay.call import CallServices
from app.relay.client import Interruption
from app.relay.errors import SHUTTING_DOWN, RelayError
from app.relay.records import EndedBy
from app.relay.transport import ProviderClient

# How long to store the ends of calls after the last one, before another instance has to end them as lost.
_SETTLE_SECONDS = 10

log = structlog.get_logger("byok.relay")


class Interruptible(Protocol):
    """A request in progress."""

    @property
    def interruption(self) -> Interruption: ...


class Relay:
    """Keeps the requests in progress, and ends them when the instance stops.

    Args:
        services: what every request needs.
        provider: the connections to providers.
    """

    def __init__(self, services: CallServices, provider: ProviderClient) -> None:
        self.services = services
        self._provider = provider
        self._in_progress: set[Interruption] = set()
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._reporting: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to report the open calls, inside the event loop."""
        self._reporting = asyncio.create_task(self.services.open_calls.run(), name="open calls")
        RELAY_OPEN.set_function(lambda: len(self._in_progress))
        RELAY_BODY_BYTES.set_function(lambda: self.services.capacity.bodies.held_bytes)
        RELAY_CONNECTIONS.labels("active").set_function(lambda: self._provider.responses_open)
        RELAY_CONNECTIONS.labels("idle").set_function(lambda: self._provider.connections_idle)

    @contextmanager
    def in_progress(self, request: Interruptible) -> Iterator[None]:
        """Let a request be interrupted when the instance stops.

        Raises:
            RelayError: the instance began to shut down while the body was read. `drain` does not wait for such requests.
        """
        if self.services.capacity.is_draining:
            raise RelayError(SHUTTING_DOWN)
        self._in_progress.add(request.interruption)
        self._is_idle.clear()
        try:
            yield
        finally:
            self._in_progress.discard(request.interruption)
            if not self._in_progress:
                self._is_idle.set()

    def is_draining(self) -> bool:
        """Whether new calls are refused because the instance stops."""
        return self.services.capacity.is_draining

    async def drain(self) -> None:
        """Admit nothing more, let what is in progress end, and interrupt the rest after the drain time."""
        self.services.capacity.is_draining = True
        if await self._becomes_idle(self.services.limits.drain_seconds):
            return
        log.warning("relay_drained", interrupted=len(self._in_progress))
        for interruption in tuple(self._in_progress):
            interruption.interrupt(EndedBy.DRAIN)
        await self._becomes_idle(_SETTLE_SECONDS)

    async def close(self) -> None:
        """Store the ends of all calls, as long as that takes within a bound."""
        await self.drain()
        with suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_SECONDS):
                await self.services.key_reports.reported()
                await self.services.settler.settled()
        if self.services.settler.unsettled:
            log.error("calls_not_settled", number=self.services.settler.unsettled)
        if self._reporting is not None:
            self._reporting.cancel()
            with suppress(asyncio.CancelledError):
                await self._reporting

    async def _becomes_idle(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._is_idle.wait()
        return self._is_idle.is_set()
