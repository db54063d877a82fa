"""Keeps the rollups up to date. Any number of instances may run it concurrently.

Reports are exact without it, but slower.
"""

import asyncio
from datetime import timedelta
from uuid import UUID

import structlog

from app.core.clock import now
from app.core.errors import Unavailable
from app.database.ledger_lock import LedgerLock
from app.database.unit_of_work import UnitsOfWork
from app.jobs.fair_runner import FairConcurrency, FairRunner
from app.jobs.queue import DueItem, JobKind, QueueRepository
from app.usage_reports.rollup_repository import RollupRepository

# Delay before the next try, when a running transaction kept rows from being rolled up.
_RETRY_DELAY = timedelta(seconds=2)
# A second core can roll up while one organization's rows are many.
_CONCURRENCY = FairConcurrency(total=2, per_organization=1)
# Longer than a job takes. After it, the worker that claimed the item counts as dead.
_VISIBILITY_TIMEOUT = timedelta(seconds=60)

log = structlog.get_logger("byok.usage_reports")


def rollup_job(organization_id: str) -> DueItem:
    """Return the organization's queue item. Every transaction that adds ledger rows adds it as its last statement."""
    return DueItem(organization_id=organization_id, kind=JobKind.FOLD_USAGE, id=UUID(int=0))


class RollupWorker:
    """Rolls up organizations from the queue. An item stays in the queue while the organization has unaggregated rows.

    Rolls up a few steps of each organization at a time, so that the many rows of one do not delay the others.
    """

    def __init__(self, units: UnitsOfWork, *, steps_at_a_time: int = 4) -> None:
        self._units = units
        self._steps_at_a_time = steps_at_a_time
        self._runner = FairRunner(
            units,
            JobKind.FOLD_USAGE,
            self._roll_up_a_few_steps,
            concurrency=_CONCURRENCY,
            visibility_timeout=_VISIBILITY_TIMEOUT,
        )

    async def run(self, stop: asyncio.Event | None = None) -> int:
        """Roll up until no organization is due or `stop` is set; return how many jobs ran.

        Raises:
            DatabaseUnavailable
        """
        return await self._runner.run(stop)

    async def roll_up(self, organization_id: str) -> None:
        """Roll up all rows that can be rolled up now. Each step is committed."""
        while await self._step(organization_id):
            continue
        await self._remove_or_reschedule(organization_id)

    async def _roll_up_a_few_steps(self, item: DueItem) -> None:
        organization_id = item.organization_id
        try:
            for _ in range(self._steps_at_a_time):
                if not await self._step(organization_id):
                    await self._remove_or_reschedule(organization_id)
                    return
            await self._reschedule(organization_id)
        except Unavailable as error:
            log.warning("rollup_postponed", organization_id=organization_id, code=error.code)
        except Exception as error:  # noqa: BLE001  # an error in one organization must not block the others
            log.error("rollup_failed", organization_id=organization_id, error=type(error).__name__)  # noqa: TRY400

    async def _step(self, organization_id: str) -> bool:
        """Roll up the rows of one transaction. Returns whether more can be rolled up now."""
        async with self._units.writing(organization_id) as uow:
            step = await uow[RollupRepository].roll_up()
            if step.has_moved:
                await uow.commit()
            return step.has_more

    async def _reschedule(self, organization_id: str) -> None:
        """Make the organization due now, behind all others that are due."""
        async with self._units.writing(organization_id) as uow:
            await uow[QueueRepository].schedule(rollup_job(organization_id), due_at=now())
            await uow.commit()

    async def _remove_or_reschedule(self, organization_id: str) -> None:
        """Remove the queue item if no unaggregated rows can be left; else schedule it again soon.

        An ingestion that finds the item in the queue does not add another one, so the item may be removed only while
        no ingestion runs. Ingestions hold the ledger lock shared until they commit. This transaction holds it
        exclusively until the item is removed: it sees the rows of earlier ingestions, and later ones add a new item.
        """
        item = rollup_job(organization_id)
        async with self._units.writing(organization_id) as uow:
            if (
                await uow[LedgerLock].try_lock_exclusively()
                and not await uow[RollupRepository].may_have_unaggregated_rows()
            ):
                await uow[QueueRepository].remove(item)
            else:
                await uow[QueueRepository].schedule(item, due_at=now() + _RETRY_DELAY)
            await uow.commit()
