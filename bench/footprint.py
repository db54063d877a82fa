"""Measures the memory of the idle service, and what a restart with existing data takes: time, and CPU time.

The start's CPU time does not include the analysis of the 64 routes, about 5 ms each on average: the first request to each takes
it (`app.api.routing`).
"""

import time

import psutil

from bench.measures import Measure, progress
from tests.support.processes.fake_anthropic import provider_process
from tests.support.processes.service import running
from tests.support.provider.fake_anthropic import make_key

MAX_MEGABYTES = 150
MAX_SECONDS = 3.0
MAX_CPU_SECONDS = 1.5
STARTS = 3


async def run() -> list[Measure]:
    async with (
        provider_process() as provider_url,
        running(PROVIDER__DEFAULT_BASE_URL=provider_url) as service,
    ):
        await service.save("org_bench", make_key())
        starts: list[float] = []
        cpu_seconds: list[float] = []
        for _ in range(STARTS):
            await service.stop()
            started_at = time.perf_counter()
            await service.start()
            starts.append(time.perf_counter() - started_at)
            spent = psutil.Process(service.process.pid).cpu_times()
            cpu_seconds.append(spent.user + spent.system)
            progress(f"restarted in {starts[-1]:.2f} s")
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
        Measure(
            name="... CPU time",
            value=min(cpu_seconds),
            unit="s",
            at_most=MAX_CPU_SECONDS,
            note="without PostgreSQL, and without the routes, about 5 ms each at the first request",
        ),
    ]
