"""What the service needs when nobody asks anything: memory, and time to start again on data that is there."""

import time

import psutil

from bench.measures import Measure, progress
from tests.e2e.provider_process import provider_process
from tests.e2e.service import running
from tests.fake_anthropic import make_key

MAX_MEGABYTES = 150
MAX_SECONDS = 3.0
STARTS = 3


async def run() -> list[Measure]:
    async with (
        provider_process() as provider_url,
        running(PROVIDER__DEFAULT_BASE_URL=provider_url) as service,
    ):
        await service.save("org_bench", make_key())
        starts: list[float] = []
        for _ in range(STARTS):
            await service.stop()
            started_at = time.perf_counter()
            await service.start()
            starts.append(time.perf_counter() - started_at)
            progress(f"started again in {starts[-1]:.2f} s")
        megabytes = psutil.Process(service.process.pid).memory_info().rss / 1e6
        progress(f"idle at {megabytes:.0f} MB")
    return [
        Measure(
            name="memory of the idle service",
            value=megabytes,
            unit="MB",
            at_most=MAX_MEGABYTES,
            note="resident, without PostgreSQL",
        ),
        Measure(
            name="second start until ready",
            value=min(starts),
            unit="s",
            at_most=MAX_SECONDS,
            note=f"best of {STARTS}",
        ),
    ]
