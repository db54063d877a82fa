"""Reconciles interrupted work, such as a write that a crash interrupted. Any number of instances may run it at once."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import TypeAlias
from uuid import UUID

import structlog

from app.core.errors import Unavailable
from app.credentials.deletion import DeletionService
from app.credentials.write_protocol import WriteProtocol
from app.database.unit_of_work import UnitsOfWork
from app.jobs.fair_runner import FairConcurrency, FairRunner
from app.jobs.queue import DueItem, JobKind
from app.observability.metrics import RECONCILED
from app.rotation.service import RotationService
from app.secret_maintenance.rewrap_steps import RewrapSteps
from app.usage_mode.notifications import ScheduledChangeNotifier
from app.validation.runner import ValidationRunner
from app.webhooks.service import WebhookService

log = structlog.get_logger("byok.composition")

# One at a time for each organization, so that what was interrupted is reconciled in the order in which it is due.
_SETTLING = FairConcurrency(total=4, per_organization=1)
_SETTLING_TIMEOUT = timedelta(seconds=30)
# Longer than the validation of a new key takes, which may wait for a host that does not respond.
_RETRY_TIMEOUT = timedelta(seconds=60)

_Handler: TypeAlias = Callable[[str, UUID], Awaitable[None]]


class Reconciler:
    """Claims due jobs and runs each one. A job stays in the queue until it has succeeded.

    Jobs of one organization, however many or slow, do not delay those of another. The kinds run apart in the background,
    because some wait for the secret store or the provider.

    Attributes:
        runners: runs the due jobs of each kind.
    """

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
        retries: FairConcurrency,
    ) -> None:
        self._units = units
        handlers: dict[JobKind, _Handler] = {
            JobKind.SETTLE_INTENT: writes.reconcile,
            JobKind.SETTLE_VALIDATION: validation_runner.reconcile,
            JobKind.DESTROY_VERSION: deletion.reconcile_version,
            JobKind.PURGE_CREDENTIAL: deletion.reconcile_deletion,
            JobKind.SETTLE_WEBHOOK: webhooks.reconcile,
            JobKind.SETTLE_REWRAP: rewraps.reconcile,
            JobKind.NOTIFY_USAGE_MODE: scheduled_changes.run,
        }
        self.runners = {
            kind: self._runner(kind, handler, _SETTLING, _SETTLING_TIMEOUT)
            for kind, handler in handlers.items()
        }
        self.runners[JobKind.RETRY_ROTATION] = self._runner(
            JobKind.RETRY_ROTATION, rotation.retry, retries, _RETRY_TIMEOUT
        )

    async def run(self) -> None:
        """Run all jobs that are due, also those that a retried rotation adds, such as the destruction of its key.

        Raises:
            DatabaseUnavailable
        """
        for runner in self.runners.values():
            await runner.run()
        # The retries were the last. A rotation that they reject has a key to destroy.
        await self.runners[JobKind.DESTROY_VERSION].run()

    def _runner(
        self, kind: JobKind, handler: _Handler, concurrency: FairConcurrency, visibility_timeout: timedelta
    ) -> FairRunner:
        return FairRunner(
            self._units,
            kind,
            partial(_reconcile, handler),
            concurrency=concurrency,
            visibility_timeout=visibility_timeout,
        )


async def _reconcile(handler: _Handler, item: DueItem) -> None:
    """Run one job. If it fails, it becomes due again after the visibility timeout."""
    try:
        await handler(item.organization_id, item.id)
    except Unavailable as error:
        log.warning(
            "reconciliation_postponed",
            kind=item.kind,
            organization_id=item.organization_id,
            code=error.code,
        )
    except Exception as error:  # noqa: BLE001  # one failing job must not stop the others
        log.error(  # noqa: TRY400
            "reconciliation_failed", kind=item.kind, id=str(item.id), error=type(error).__name__
        )
    else:
        RECONCILED.labels(item.kind).inc()
        log.info("reconciled", kind=item.kind, organization_id=item.organization_id, id=str(item.id))
