"""Stores how calls ended. This is not the request's task: the client may be gone, and the database may be down."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from uuid import UUID

import structlog

from app.auth.principal import Caller
from app.core.errors import NotFound, RateLimited, ReservationEnded, Unavailable
from app.database.group_commit import GroupCommit
from app.observability.metrics import (
    RELAY_ENDED,
    RELAY_SETTLE_SECONDS,
    RELAY_UNSETTLED,
    RELAY_USAGE,
)
from app.relay.ending.call_event import batch_of
from app.relay.ending.open_calls import OpenCalls
from app.relay.records import CallEnd
from app.spend_limits.reservation_service import ReservationService
from app.usage.service import IngestionService
from app.usage_events.events import EventStatus

_LARGEST_GROUP = 500
_FIRST_DELAY_SECONDS = 0.25
_LONGEST_DELAY_SECONDS = 5.0

log = structlog.get_logger("byok.relay")


class Settler:
    """Ends every admitted call by one usage event or by a release, and repeats what fails.

    Calls of one organization that end while another group of it is being stored share the next transaction. What waits
    is bounded: while the database is down, no call is admitted.

    Args:
        ingestion: stores events, and settles the reservations that they name.
        reservations: releases reservations.
        open_calls: the calls that this process reports as in progress. They stay open until they are settled.
    """

    def __init__(
        self, ingestion: IngestionService, reservations: ReservationService, open_calls: OpenCalls
    ) -> None:
        self._ingestion = ingestion
        self._reservations = reservations
        self._open_calls = open_calls
        self._groups = GroupCommit(self._store, at_most=_LARGEST_GROUP)
        # Strong references: the event loop has only weak ones.
        self._tasks: set[asyncio.Task[None]] = set()

    def settle(self, end: CallEnd) -> None:
        """Store the event of a call. Returns at once."""
        RELAY_ENDED.labels(end.by).inc()
        RELAY_USAGE.labels(end.usage_source).inc()
        organization_id = end.call.organization_id
        self._start(end.call.request.id, lambda: self._groups.submit(organization_id, end))

    def release(self, caller: Caller, reservation_id: UUID) -> None:
        """Release the reservation of a call that the provider never got to see. Returns at once."""

        async def release() -> None:
            with suppress(NotFound, ReservationEnded):
                await self._reservations.release(caller, reservation_id)

        self._start(reservation_id, release)

    async def settled(self) -> None:
        """Wait until everything is stored."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    @property
    def unsettled(self) -> int:
        return len(self._tasks)

    def _start(self, call_id: UUID, store: Callable[[], Awaitable[None]]) -> None:
        task = asyncio.create_task(self._until_stored(call_id, store))
        self._tasks.add(task)
        RELAY_UNSETTLED.set(len(self._tasks))
        task.add_done_callback(self._forget)

    def _forget(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        RELAY_UNSETTLED.set(len(self._tasks))

    async def _until_stored(self, call_id: UUID, store: Callable[[], Awaitable[None]]) -> None:
        """Repeat while the database is at fault. Any other failure leaves the call to `LostCallWorker`."""
        started, delay = time.perf_counter(), _FIRST_DELAY_SECONDS
        try:
            while True:
                try:
                    await store()
                except (Unavailable, RateLimited) as error:
                    log.warning("settling_postponed", reservation_id=str(call_id), code=error.code)
                else:
                    RELAY_SETTLE_SECONDS.observe(time.perf_counter() - started)
                    return
                await asyncio.sleep(delay)
                delay = min(delay * 2, _LONGEST_DELAY_SECONDS)
        except Exception as error:  # noqa: BLE001  # only the type is logged, because the text may quote input
            log.error("settling_failed", reservation_id=str(call_id), error=type(error).__name__)  # noqa: TRY400
        finally:
            self._open_calls.discard(call_id)

    async def _store(self, organization_id: str, ends: Sequence[CallEnd]) -> Sequence[None]:
        """Ingest the events of one organization in one transaction.

        A conflict means that the call was taken for lost and ended before, so nothing is lost: the estimate stands.
        """
        ingested = await self._ingestion.ingest(organization_id, await batch_of(ends))
        for one in ingested.not_accepted:
            if one.status is EventStatus.REJECTED:
                log.error("call_event_rejected", reservation_id=one.event_id, code=one.code)
            elif one.status is EventStatus.CONFLICT:
                log.warning("call_already_ended", reservation_id=one.event_id)
        return [None] * len(ends)
