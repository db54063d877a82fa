"""All background jobs: keys checked again, the two stores kept in step, use summed up, webhooks delivered, the expired dropped."""

import asyncio
from functools import partial

from app.jobs.scheduler import repeat
from app.services import Services

PURGE_SECONDS = 600
USAGE_RETENTION_SECONDS = 3600


async def run_jobs(services: Services, *, interval_seconds: float, stop: asyncio.Event) -> None:
    """All background jobs, until `stop` is set."""
    await asyncio.gather(
        repeat("sweep", services.sweep.run, seconds=interval_seconds, stop=stop),
        repeat("revalidate", partial(services.revalidation.run, stop), seconds=interval_seconds, stop=stop),
        repeat(
            "deliver_webhooks", partial(services.deliveries.run, stop), seconds=interval_seconds, stop=stop
        ),
        repeat("fold", partial(services.folding.run, stop), seconds=interval_seconds, stop=stop),
        repeat("purge", services.sweep.purge, seconds=PURGE_SECONDS, stop=stop),
        repeat("usage_retention", services.usage_retention.run, seconds=USAGE_RETENTION_SECONDS, stop=stop),
    )
