"""Background jobs continue after failures and end when they are stopped."""

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from app.audit.retention import AuditRetentionWorker
from app.composition.background import run_jobs
from app.composition.reconciler import Reconciler
from app.core.errors import DatabaseUnavailable
from app.core.services import Services
from app.jobs.cell_jobs import CellJobs
from app.jobs.retention import ExpiredRowsWorker
from app.jobs.scheduler import repeat
from app.relay.ending.lost_call_worker import LostCallWorker
from app.usage.retention import UsageRetentionWorker
from app.usage_reports.rollup_worker import RollupWorker
from app.validation.worker import ValidationWorker
from app.webhooks.delivery_worker import DeliveryWorker

LONG = 3600.0


class Job:
    """Counts its runs, raises the given error, and stops the loop after `until` runs."""

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
    async def test_runs_immediately_and_then_repeatedly(self) -> None:
        stop = asyncio.Event()
        job = Job(stop, until=3)

        await repeat("test", job, seconds=0, stop=stop)

        assert job.runs == 3

    @pytest.mark.parametrize("error", [DatabaseUnavailable(), ValueError("sk-ant-api03-canary")])
    async def test_continues_after_a_failure_and_does_not_log_its_message(
        self, error: Exception, caplog: pytest.LogCaptureFixture
    ) -> None:
        stop = asyncio.Event()
        job = Job(stop, until=3, raises=error)

        await repeat("test", job, seconds=0, stop=stop)

        assert job.runs == 3
        assert "canary" not in caplog.text

    async def test_ends_during_a_pause(self) -> None:
        stop = asyncio.Event()
        job = Job(stop, until=1)

        async with asyncio.timeout(10):
            await repeat("test", job, seconds=LONG, stop=stop)

        assert job.runs == 1

    async def test_does_nothing_if_stopped_before_it_starts(self) -> None:
        stop = asyncio.Event()
        stop.set()
        job = Job(stop, until=1)

        await repeat("test", job, seconds=LONG, stop=stop)

        assert job.runs == 0

    async def test_can_be_cancelled(self) -> None:
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
    async def test_runs_every_job_until_stopped(self) -> None:
        stop = asyncio.Event()
        reconcile, purge = Job(asyncio.Event(), until=0), Job(asyncio.Event(), until=0)
        revalidate, deliver, roll_up, retain, audit, lost, retry = (
            Job(asyncio.Event(), until=0) for _ in range(7)
        )

        async def reconcile_and_stop() -> None:
            await reconcile()
            if all(it.runs for it in (purge, revalidate, deliver, roll_up, retain, lost, retry)):
                stop.set()

        services = cast(
            "Services",
            {
                Reconciler: SimpleNamespace(
                    runners={
                        "settle_intent": SimpleNamespace(run=lambda _stop: reconcile_and_stop()),
                        "retry_rotation": SimpleNamespace(run=lambda _stop: retry()),
                    },
                ),
                ExpiredRowsWorker: SimpleNamespace(run=lambda _stop: purge()),
                ValidationWorker: SimpleNamespace(run=lambda _stop: revalidate()),
                DeliveryWorker: SimpleNamespace(run=lambda _stop: deliver()),
                RollupWorker: SimpleNamespace(run=lambda _stop: roll_up()),
                UsageRetentionWorker: SimpleNamespace(run=retain),
                AuditRetentionWorker: SimpleNamespace(run=audit),
                LostCallWorker: SimpleNamespace(run=lost),
                CellJobs: SimpleNamespace(in_all=lambda job: job),
            },
        )

        async with asyncio.timeout(10):
            await run_jobs(services, interval_seconds=0, stop=stop)

        assert reconcile.runs > 0
        assert purge.runs == 1
        assert revalidate.runs > 0
        assert retry.runs > 0
