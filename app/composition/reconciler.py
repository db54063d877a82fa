"""Finishes what a crash interrupted. Any number of instances may run it at once."""

from collections.abc import Awaitable, Callable
from uuid import UUID

import structlog

from app.core.clock import now
from app.core.errors import Unavailable
from app.credentials.deletion import DeletionService
from app.credentials.write_protocol import WriteProtocol
from app.database.unit_of_work import UnitsOfWork
from app.jobs.queue import JobKind, QueueRepository
from app.observability.metrics import SWEPT
from app.rotation.service import RotationService
from app.secret_maintenance.rewrap_steps import RewrapSteps
from app.validation.runner import ValidationRunner
from app.webhooks.service import WebhookService

log = structlog.get_logger(__name__)


class Reconciler:
    """Takes due items from the queue; an item stays there until it is settled."""

    def __init__(  # one for each kind of work
        self,
        units: UnitsOfWork,
        writes: WriteProtocol,
        checks: ValidationRunner,
        rotation: RotationService,
        retirement: DeletionService,
        *,
        webhooks: WebhookService,
        rewraps: RewrapSteps,
    ) -> None:
        self._units = units
        self._settle: dict[JobKind, Callable[[str, UUID], Awaitable[None]]] = {
            JobKind.SETTLE_INTENT: writes.settle,
            JobKind.SETTLE_VALIDATION: checks.settle,
            JobKind.RETRY_ROTATION: rotation.retry,
            JobKind.DESTROY_VERSION: retirement.settle_version,
            JobKind.PURGE_CREDENTIAL: retirement.settle_deletion,
            JobKind.SETTLE_WEBHOOK: webhooks.settle,
            JobKind.SETTLE_REWRAP: rewraps.settle,
        }

    async def run(self) -> int:
        """Settle what is due; returns how many items were settled.

        Raises:
            DatabaseUnavailable
        """
        settled = 0
        for kind, settle in self._settle.items():
            async with self._units.across(QueueRepository) as (queue, session):
                due = await queue.take(kind, now=now())
                await session.commit()
            for item in due:
                try:
                    await settle(item.organization_id, item.id)
                except Unavailable as error:
                    log.warning(
                        "sweep_postponed", kind=kind, organization_id=item.organization_id, code=error.code
                    )
                except Exception as error:  # noqa: BLE001  # one bad item must not keep the others waiting
                    log.error("sweep_failed", kind=kind, id=str(item.id), error=type(error).__name__)  # noqa: TRY400
                else:
                    settled += 1
                    SWEPT.labels(kind).inc()
                    log.info("swept", kind=kind, organization_id=item.organization_id, id=str(item.id))
        return settled

    async def purge(self) -> None:
        """Drop kept answers and counters whose time is over."""
        async with self._units.across(QueueRepository) as (queue, session):
            await queue.purge_expired()
            await session.commit()
