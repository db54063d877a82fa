"""Background work goes on whatever happens to it, and ends when told."""

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from app.composition.background import run_jobs
from app.composition.reconciler import Reconciler
from app.core.errors import DatabaseUnavailable
from app.core.services import Services
from app.jobs.scheduler import repeat
from app.usage.retention import UsageRetentionWorker
from app.usage_reports.rollup_worker import RollupWorker
from app.validation.worker import ValidationWorker
from app.webhooks.delivery_worker import DeliveryWorker

LONG = 3600.0


class Job:
    """Counts its runs, raises what it is told to, and stops the loop after `until` runs."""

    def __init__(self, stop: asyncio.Event, *, until: int, raises: Exception | None = None) -> None:
        self.runs = 0
        self._stop = stop
        self._until = until
        self._raises = raises

    async def __call__(self) -> None:
        self.runs += 1
        if self.runs == self._until:
            self._stop.set()
        if self._raises is not None:
            raise self._raises


class TestRepeat:
    async def test_runs_at_once_and_again(self) -> None:
        stop = asyncio.Event()
        job = Job(stop, until=3)

        await repeat("test", job, seconds=0, stop=stop)

        assert job.runs == 3

    @pytest.mark.parametrize("error", [DatabaseUnavailable(), ValueError("sk-ant-api03-canary")])
    async def test_goes_on_after_a_failure_and_does_not_quote_it(
        self, error: Exception, caplog: pytest.LogCaptureFixture
    ) -> None:
        stop = asyncio.Event()
        job = Job(stop, until=3, raises=error)

        await repeat("test", job, seconds=0, stop=stop)

        assert job.runs == 3
        assert "canary" not in caplog.text

    async def test_ends_in_the_middle_of_a_pause(self) -> None:
        stop = asyncio.Event()
        job = Job(stop, until=1)

        async with asyncio.timeout(10):
            await repeat("test", job, seconds=LONG, stop=stop)

        assert job.runs == 1

    async def test_told_to_stop_before_it_began_does_nothing(self) -> None:
        stop = asyncio.Event()
        stop.set()
        job = Job(stop, until=1)

        await repeat("test", job, seconds=LONG, stop=stop)

        assert job.runs == 0

    async def test_is_cancelled_like_anything_else(self) -> None:
        stop = asyncio.Event()
        started = asyncio.Event()

        async def job() -> None:
            started.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(repeat("test", job, seconds=LONG, stop=stop))
        await started.wait()
        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task


class TestRunJobs:
    async def test_sweeps_and_purges_until_told_to_stop(self) -> None:
        stop = asyncio.Event()
        sweep, purge = Job(asyncio.Event(), until=0), Job(asyncio.Event(), until=0)
        revalidate, deliver, fold, retain = (Job(asyncio.Event(), until=0) for _ in range(4))

        async def sweep_and_stop() -> None:
            await sweep()
            if purge.runs and revalidate.runs and deliver.runs and fold.runs and retain.runs:
                stop.set()

        services = cast(
            "Services",
            {
                Reconciler: SimpleNamespace(run=sweep_and_stop, purge=purge),
                ValidationWorker: SimpleNamespace(run=lambda _stop: revalidate()),
                DeliveryWorker: SimpleNamespace(run=lambda _stop: deliver()),
                RollupWorker: SimpleNamespace(run=lambda _stop: fold()),
                UsageRetentionWorker: SimpleNamespace(run=retain),
            },
        )

        async with asyncio.timeout(10):
            await run_jobs(services, interval_seconds=0, stop=stop)

        assert sweep.runs > 0
        assert purge.runs == 1
        assert revalidate.runs > 0
