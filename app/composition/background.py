"""All background jobs: keys checked again, the two stores kept in step, use summed up, webhooks delivered, the expired dropped."""

import asyncio
from functools import partial

from app.composition.reconciler import Sweep
from app.core.services import Services
from app.jobs.scheduler import repeat
from app.usage.retention import UsageRetention
from app.usage_reports.rollup_worker import Folding
from app.validation.worker import Revalidation
from app.webhooks.delivery_worker import Deliveries

PURGE_SECONDS = 600
USAGE_RETENTION_SECONDS = 3600


async def run_jobs(services: Services, *, interval_seconds: float, stop: asyncio.Event) -> None:
    """All background jobs, until `stop` is set."""
    await asyncio.gather(
        repeat("sweep", services[Sweep].run, seconds=interval_seconds, stop=stop),
        repeat("revalidate", partial(services[Revalidation].run, stop), seconds=interval_seconds, stop=stop),
        repeat(
            "deliver_webhooks", partial(services[Deliveries].run, stop), seconds=interval_seconds, stop=stop
        ),
        repeat("fold", partial(services[Folding].run, stop), seconds=interval_seconds, stop=stop),
        repeat("purge", services[Sweep].purge, seconds=PURGE_SECONDS, stop=stop),
        repeat("usage_retention", services[UsageRetention].run, seconds=USAGE_RETENTION_SECONDS, stop=stop),
    )
