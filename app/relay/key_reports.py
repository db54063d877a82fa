"""Queues a validation of a key that the provider refused to live traffic. Relayed responses never write a result themselves."""

import asyncio
import time
from collections.abc import Callable
from typing import Final
from uuid import UUID

import structlog

from app.core.errors import ByokError
from app.relay.records import Destination
from app.relay.usage_meter import Metered
from app.validation.service import ValidationService

_INTERVAL_SECONDS: Final = 60
_MOST_REMEMBERED: Final = 10_000
_UNAUTHORIZED: Final = 401
_ON_HOLD: Final = "organization_on_hold"

log = structlog.get_logger("byok.relay")


class KeyReports:
    """Reports key versions that the provider refused, each at most once a minute.

    Args:
        validation: queues the validation, if the version is active and was valid.
        clock: monotonic seconds.
    """

    def __init__(self, validation: ValidationService, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._validation = validation
        self._clock = clock
        self._reported: dict[tuple[UUID, int], float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def report(self, destination: Destination, status: int | None, metered: Metered) -> None:
        """Look at a response: does it doubt the key? Returns at once."""
        is_refused = status == _UNAUTHORIZED and metered.has_error
        if not is_refused and metered.error_code != _ON_HOLD:
            return
        version = destination.credential_id, destination.key_version
        at = self._clock()
        if at - self._reported.get(version, -_INTERVAL_SECONDS) < _INTERVAL_SECONDS:
            return
        if len(self._reported) >= _MOST_REMEMBERED:
            self._reported.clear()
        self._reported[version] = at
        task = asyncio.create_task(self._queue(destination))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def reported(self) -> None:
        """Wait until everything is queued."""
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    async def _queue(self, destination: Destination) -> None:
        try:
            await self._validation.revalidate_soon(
                destination.organization_id,
                destination.credential_id,
                key_version=destination.key_version,
            )
        except ByokError as error:
            log.warning("validation_not_queued", code=error.code)
