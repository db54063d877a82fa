"""The background jobs of the service: which ones there are, and how often each runs."""

import asyncio
from functools import partial

from app.audit.retention import AuditRetentionWorker
from app.composition.reconciler import Reconciler
from app.core.services import Services
from app.jobs.cell_jobs import CellJobs, Job
from app.jobs.retention import ExpiredRowsWorker
from app.jobs.scheduler import repeat
from app.relay.ending.lost_call_worker import LostCallWorker
from app.usage.retention import UsageRetentionWorker
from app.usage_reports.rollup_worker import RollupWorker
from app.validation.worker import ValidationWorker
from app.webhooks.delivery_worker import DeliveryWorker

PURGE_SECONDS = 600
LOST_CALLS_SECONDS = 15
USAGE_RETENTION_SECONDS = 3600
AUDIT_RETENTION_SECONDS = 3600


async def run_jobs(services: Services, *, interval_seconds: float, stop: asyncio.Event) -> None:
    """Run all background jobs in all cells until `stop` is set."""
    jobs: dict[str, tuple[Job, float]] = {
        "revalidate": (partial(services[ValidationWorker].run, stop), interval_seconds),
        "deliver_webhooks": (partial(services[DeliveryWorker].run, stop), interval_seconds),
        "fold": (partial(services[RollupWorker].run, stop), interval_seconds),
        "relay_calls": (services[LostCallWorker].run, LOST_CALLS_SECONDS),
        "purge": (partial(services[ExpiredRowsWorker].run, stop), PURGE_SECONDS),
        "usage_retention": (services[UsageRetentionWorker].run, USAGE_RETENTION_SECONDS),
        "audit_retention": (services[AuditRetentionWorker].run, AUDIT_RETENTION_SECONDS),
    }
    for kind, runner in services[Reconciler].runners.items():
        jobs[kind] = (partial(runner.run, stop), interval_seconds)
    in_all = services[CellJobs].in_all
    await asyncio.gather(
        *(repeat(name, in_all(job), seconds=seconds, stop=stop) for name, (job, seconds) in jobs.items())
    )
