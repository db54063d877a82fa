"""Runs periodic validations from the job queue. Any number of instances may run this worker.

A claimed item becomes visible again after `VISIBILITY_TIMEOUT` unless its validation rescheduled it. So a killed
instance loses nothing.
"""

import asyncio
from collections import Counter
from datetime import timedelta

import structlog

from app.core.clock import now
from app.core.errors import ByokError
from app.credentials.repository import CredentialRepository
from app.credentials.validator import periodic_validation_of
from app.database.unit_of_work import UnitsOfWork
from app.jobs.fair_runner import FairConcurrency, FairRunner
from app.jobs.queue import DueItem, JobKind, QueueRepository
from app.validation.service import ValidationService

# Longer than any validation takes. After it, the worker that claimed the item counts as dead.
VISIBILITY_TIMEOUT = timedelta(seconds=60)
# How long an item is postponed if its host has reached the concurrency limit.
BUSY_HOST_DELAY = timedelta(seconds=5)

log = structlog.get_logger("byok.validation")


class ValidationWorker:
    """Runs due validations, up to a concurrency limit and a per-organization quota.

    Args:
        units: opens transactions on the queue.
        validation: runs one validation.
        concurrency: the limit of concurrent validations in this instance.
        per_organization: the limit for one organization, so that its slow hosts do not delay the others.
        per_host: the limit for one custom host. The default endpoint is limited only by `concurrency`.
    """

    def __init__(
        self,
        units: UnitsOfWork,
        validation: ValidationService,
        *,
        concurrency: int = 16,
        per_organization: int = 4,
        per_host: int = 4,
    ) -> None:
        self._units = units
        self._validation = validation
        self._per_host = per_host
        self._running_by_host: Counter[str] = Counter()
        self._runner = FairRunner(
            units,
            JobKind.REVALIDATE,
            self._validate,
            concurrency=FairConcurrency(total=concurrency, per_organization=per_organization),
            visibility_timeout=VISIBILITY_TIMEOUT,
        )

    async def run(self, stop: asyncio.Event | None = None) -> None:
        """Run until nothing is due or `stop` is set. Claims nothing after that, and waits for running validations.

        Raises:
            DatabaseUnavailable
        """
        await self._runner.run(stop)

    async def _validate(self, item: DueItem) -> None:
        try:
            host = await self._custom_host(item)
            if host is None:
                await self._validation.revalidate(item)
            elif self._running_by_host[host] >= self._per_host:
                await self._postpone(item)
            else:
                self._running_by_host[host] += 1
                try:
                    await self._validation.revalidate(item)
                finally:
                    self._running_by_host[host] -= 1
                    self._running_by_host += Counter()  # drops the zeros
        except ByokError as error:
            # The item becomes visible again after the visibility timeout.
            log.warning(
                "periodic_validation_postponed", organization_id=item.organization_id, code=error.code
            )
        except Exception as error:  # noqa: BLE001  # as above; only the type is logged, because the text may quote input
            name = type(error).__name__
            log.error("periodic_validation_failed", organization_id=item.organization_id, error=name)  # noqa: TRY400

    async def _custom_host(self, item: DueItem) -> str | None:
        async with self._units.reading(item.organization_id) as uow:
            credential = await uow[CredentialRepository].find(item.id)
        if credential is None or credential.active_version.endpoint.base_url is None:
            return None
        return credential.active_version.endpoint.messages_url.split("/", 3)[2]

    async def _postpone(self, item: DueItem) -> None:
        """Postpone the item, so that a slow host delays only its own validations."""
        async with self._units.writing(item.organization_id) as uow:
            await uow[QueueRepository].schedule(
                periodic_validation_of(item.organization_id, item.id), due_at=now() + BUSY_HOST_DELAY
            )
            await uow.commit()
