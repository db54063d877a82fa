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
from app.jobs.queue import DueItem, JobKind, QueueRepository
from app.usage_reports.rollup_repository import RollupRepository

# Delay before the next try, when a running transaction kept rows from being rolled up.
_RETRY_DELAY = timedelta(seconds=2)

log = structlog.get_logger("byok.usage_reports")


def rollup_job(organization_id: str) -> DueItem:
    """Return the organization's queue item. Every transaction that adds ledger rows adds it as its last statement."""
    return DueItem(organization_id=organization_id, kind=JobKind.FOLD_USAGE, id=UUID(int=0))


class RollupWorker:
    """Rolls up organizations from the queue. An item stays in the queue while the organization has unaggregated rows."""

    def __init__(self, units: UnitsOfWork) -> None:
        self._units = units

    async def run(self, stop: asyncio.Event | None = None) -> int:
        """Roll up all due organizations; return how many.

        Raises:
            DatabaseUnavailable
        """
        rolled_up = 0
        while due := await self._claim():
            for item in due:
                if stop is not None and stop.is_set():
                    return rolled_up  # claimed items become due again
                rolled_up += await self._roll_up_logging_errors(item.organization_id)
        return rolled_up

    async def roll_up(self, organization_id: str) -> None:
        """Roll up all rows that can be rolled up now. Each step is committed."""
        has_more = True
        while has_more:
            async with self._units.writing(organization_id) as uow:
                step = await uow[RollupRepository].roll_up()
                if step.has_moved:
                    await uow.commit()
                has_more = step.has_more
        await self._remove_or_reschedule(organization_id)

    async def _claim(self) -> list[DueItem]:
        async with self._units.unscoped(QueueRepository) as (queue, session):
            due = await queue.claim(JobKind.FOLD_USAGE, now=now())
            await session.commit()
        return list(due)

    async def _roll_up_logging_errors(self, organization_id: str) -> bool:
        try:
            await self.roll_up(organization_id)
        except Unavailable as error:
            log.warning("rollup_postponed", organization_id=organization_id, code=error.code)
        except Exception as error:  # noqa: BLE001  # an error in one organization must not block the others
            log.error("rollup_failed", organization_id=organization_id, error=type(error).__name__)  # noqa: TRY400
        else:
            return True
        return False

    async def _remove_or_reschedule(self, organization_id: str) -> None:
        """Remove the queue item if no unaggregated rows are left; else schedule it again soon.

        An ingestion that finds the item in the queue does not add another one, so the item may be removed only while
        no ingestion runs. Ingestions hold the ledger lock shared until they commit. This transaction holds it
        exclusively until the item is removed: it sees the rows of earlier ingestions, and later ones add a new item.
        """
        item = rollup_job(organization_id)
        async with self._units.writing(organization_id) as uow:
            if (
                await uow[LedgerLock].try_lock_exclusively()
                and not await uow[RollupRepository].has_unaggregated_rows()
            ):
                await uow[QueueRepository].remove(item)
            else:
                await uow[QueueRepository].schedule(item, due_at=now() + _RETRY_DELAY)
            await uow.commit()
