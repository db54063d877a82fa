"""All background jobs: keys checked again, the two stores kept in step, use summed up, webhooks delivered, the expired dropped."""

import asyncio
from functools import partial

from app.composition.reconciler import Reconciler
from app.core.services import Services
from app.jobs.scheduler import repeat
from app.usage.retention import UsageRetentionWorker
from app.usage_reports.rollup_worker import RollupWorker
from app.validation.worker import ValidationWorker
from app.webhooks.delivery_worker import DeliveryWorker

PURGE_SECONDS = 600
USAGE_RETENTION_SECONDS = 3600


async def run_jobs(services: Services, *, interval_seconds: float, stop: asyncio.Event) -> None:
    """All background jobs, until `stop` is set."""
    await asyncio.gather(
        repeat("sweep", services[Reconciler].run, seconds=interval_seconds, stop=stop),
        repeat(
            "revalidate", partial(services[ValidationWorker].run, stop), seconds=interval_seconds, stop=stop
        ),
        repeat(
            "deliver_webhooks",
            partial(services[DeliveryWorker].run, stop),
            seconds=interval_seconds,
            stop=stop,
        ),
        repeat("fold", partial(services[RollupWorker].run, stop), seconds=interval_seconds, stop=stop),
        repeat("purge", services[Reconciler].purge, seconds=PURGE_SECONDS, stop=stop),
        repeat(
            "usage_retention", services[UsageRetentionWorker].run, seconds=USAGE_RETENTION_SECONDS, stop=stop
        ),
    )
