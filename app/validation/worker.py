"""Periodic checks of keys: due ones are taken by any number of instances, each by one.

An item that was taken comes again after a while unless its check put it off, so an instance that is
killed loses nothing.
"""

import asyncio
from collections import Counter
from datetime import timedelta

import structlog

from app.core.clock import now
from app.core.errors import ByokError
from app.credentials.repository import CredentialRepository
from app.credentials.validator import check_of
from app.database.unit_of_work import UnitsOfWork
from app.jobs.queue import DueItem, JobKind, QueueRepository
from app.validation.service import ValidationService

# Longer than any check takes; after it whoever took the item counts as dead.
TAKEN_FOR = timedelta(seconds=60)
# How long an item waits whose host has as many checks under way as it may.
HOST_IS_BUSY = timedelta(seconds=5)

log = structlog.get_logger(__name__)


class ValidationWorker:
    """Runs what is due, within bounds.

    Args:
        units: where the queue is.
        validation: who checks.
        concurrency: checks at once in this instance.
        per_host: of those, to one host that a customer entered; the default endpoint is bounded by
            `concurrency` alone.
    """

    def __init__(
        self, units: UnitsOfWork, validation: ValidationService, *, concurrency: int = 16, per_host: int = 4
    ) -> None:
        self._units = units
        self._validation = validation
        self._concurrency = concurrency
        self._per_host = per_host
        self._hosts: Counter[str] = Counter()

    async def run(self, stop: asyncio.Event | None = None) -> None:
        """Until nothing is due, or `stop` is set: then what is under way is finished and nothing more taken.

        Raises:
            DatabaseUnavailable
        """
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                is_stopping = stop is not None and stop.is_set()
                due = [] if is_stopping else await self._take(self._concurrency - len(running))
                running |= {asyncio.create_task(self._check(item)) for item in due}
                if not running:
                    return
                _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if running:
                await asyncio.wait(running)

    async def _take(self, at_most: int) -> list[DueItem]:
        if at_most <= 0:
            return []
        async with self._units.across(QueueRepository) as (queue, session):
            due = await queue.take(JobKind.REVALIDATE, now=now(), at_most=at_most, again_after=TAKEN_FOR)
            await session.commit()
        return list(due)

    async def _check(self, item: DueItem) -> None:
        try:
            host = await self._custom_host(item)
            if host is None:
                await self._validation.recheck(item)
            elif self._hosts[host] >= self._per_host:
                await self._put_off(item)
            else:
                self._hosts[host] += 1
                try:
                    await self._validation.recheck(item)
                finally:
                    self._hosts[host] -= 1
                    self._hosts += Counter()  # drops the zeros
        except ByokError as error:
            # It comes again after its time.
            log.warning("recheck_postponed", organization_id=item.organization_id, code=error.code)
        except Exception as error:  # noqa: BLE001  # likewise; told by name: its text may quote what it was given
            log.error("recheck_failed", organization_id=item.organization_id, error=type(error).__name__)  # noqa: TRY400

    async def _custom_host(self, item: DueItem) -> str | None:
        async with self._units.reading(item.organization_id) as uow:
            credential = await uow[CredentialRepository].find(item.id)
        if credential is None or credential.current.destination.base_url is None:
            return None
        return credential.current.destination.messages_url.split("/", 3)[2]

    async def _put_off(self, item: DueItem) -> None:
        """A slow host keeps its own checks waiting, not everybody's."""
        async with self._units.writing(item.organization_id) as uow:
            await uow[QueueRepository].schedule(
                check_of(item.organization_id, item.id), due_at=now() + HOST_IS_BUSY
            )
            await uow.commit()
