"""Reconciles interrupted work, such as a write that a crash interrupted. Any number of instances may run it at once."""

from collections.abc import Awaitable, Callable
from uuid import UUID

import structlog

from app.core.clock import now
from app.core.errors import Unavailable
from app.credentials.deletion import DeletionService
from app.credentials.write_protocol import WriteProtocol
from app.database.unit_of_work import UnitsOfWork
from app.jobs.queue import JobKind, QueueRepository
from app.observability.metrics import RECONCILED
from app.rotation.service import RotationService
from app.secret_maintenance.rewrap_steps import RewrapSteps
from app.usage_mode.notifications import ScheduledChangeNotifier
from app.validation.runner import ValidationRunner
from app.webhooks.service import WebhookService

log = structlog.get_logger("byok.composition")


class Reconciler:
    """Claims due jobs and runs each one. A job stays in the queue until it has succeeded."""

    def __init__(  # one parameter for each kind of work
        self,
        units: UnitsOfWork,
        writes: WriteProtocol,
        validation_runner: ValidationRunner,
        rotation: RotationService,
        deletion: DeletionService,
        *,
        webhooks: WebhookService,
        rewraps: RewrapSteps,
        scheduled_changes: ScheduledChangeNotifier,
    ) -> None:
        self._units = units
        self._handlers: dict[JobKind, Callable[[str, UUID], Awaitable[None]]] = {
            JobKind.SETTLE_INTENT: writes.reconcile,
            JobKind.SETTLE_VALIDATION: validation_runner.reconcile,
            JobKind.RETRY_ROTATION: rotation.retry,
            JobKind.DESTROY_VERSION: deletion.reconcile_version,
            JobKind.PURGE_CREDENTIAL: deletion.reconcile_deletion,
            JobKind.SETTLE_WEBHOOK: webhooks.reconcile,
            JobKind.SETTLE_REWRAP: rewraps.reconcile,
            JobKind.NOTIFY_USAGE_MODE: scheduled_changes.run,
        }

    async def run(self) -> int:
        """Run the jobs that are due; returns how many succeeded.

        Raises:
            DatabaseUnavailable
        """
        reconciled = 0
        for kind, reconcile in self._handlers.items():
            async with self._units.unscoped(QueueRepository) as (queue, session):
                due = await queue.claim(kind, now=now())
                await session.commit()
            for item in due:
                try:
                    await reconcile(item.organization_id, item.id)
                except Unavailable as error:
                    log.warning(
                        "reconciliation_postponed",
                        kind=kind,
                        organization_id=item.organization_id,
                        code=error.code,
                    )
                except Exception as error:  # noqa: BLE001  # one failing job must not delay the others
                    log.error(  # noqa: TRY400
                        "reconciliation_failed", kind=kind, id=str(item.id), error=type(error).__name__
                    )
                else:
                    reconciled += 1
                    RECONCILED.labels(kind).inc()
                    log.info("reconciled", kind=kind, organization_id=item.organization_id, id=str(item.id))
        return reconciled

    async def purge(self) -> None:
        """Delete expired idempotency keys, rate counters, spend reservations, webhook deliveries and links."""
        async with self._units.unscoped(QueueRepository) as (queue, session):
            await queue.purge_expired()
            await session.commit()
