"""Keeps the sums of the ledger up. Any number of instances may run it at once; reports are exact without it, and slower."""

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

# Until rows are tried again that somebody's running transaction kept from being folded.
_AGAIN_AFTER = timedelta(seconds=2)

log = structlog.get_logger(__name__)


def fold_of(organization_id: str) -> DueItem:
    """One for each organization. Whoever adds to the ledger adds it last in the same transaction."""
    return DueItem(organization_id=organization_id, kind=JobKind.FOLD_USAGE, id=UUID(int=0))


class RollupWorker:
    """Takes organizations with new rows from the queue; an item stays there while there are any."""

    def __init__(self, units: UnitsOfWork) -> None:
        self._units = units

    async def run(self, stop: asyncio.Event | None = None) -> int:
        """Fold what is due; returns of how many organizations.

        Raises:
            DatabaseUnavailable
        """
        folded = 0
        while due := await self._take():
            for item in due:
                if stop is not None and stop.is_set():
                    return folded  # what was taken comes again
                folded += await self._fold_guarded(item.organization_id)
        return folded

    async def fold(self, organization_id: str) -> None:
        """Everything that can be folded now, in steps that each are kept."""
        has_more = True
        while has_more:
            async with self._units.writing(organization_id) as uow:
                step = await uow[RollupRepository].fold()
                if step.is_any:
                    await uow.commit()
                has_more = step.has_more
        await self._settle(organization_id)

    async def _take(self) -> list[DueItem]:
        async with self._units.across(QueueRepository) as (queue, session):
            due = await queue.take(JobKind.FOLD_USAGE, now=now())
            await session.commit()
        return list(due)

    async def _fold_guarded(self, organization_id: str) -> bool:
        try:
            await self.fold(organization_id)
        except Unavailable as error:
            log.warning("fold_postponed", organization_id=organization_id, code=error.code)
        except Exception as error:  # noqa: BLE001  # one organization must not keep the others waiting
            log.error("fold_failed", organization_id=organization_id, error=type(error).__name__)  # noqa: TRY400
        else:
            return True
        return False

    async def _settle(self, organization_id: str) -> None:
        """Remove the item if nothing is left; else let it come again soon.

        An ingestion that found the item there added none, so the item may go only while none is under way:
        they hold the lock shared until they have committed, and we hold it alone until the item is gone.
        Those before us are seen, those after us add an item of their own.
        """
        item = fold_of(organization_id)
        async with self._units.writing(organization_id) as uow:
            if await uow[LedgerLock].try_exclusive() and not await uow[RollupRepository].has_tail():
                await uow[QueueRepository].remove(item)
            else:
                await uow[QueueRepository].schedule(item, due_at=now() + _AGAIN_AFTER)
            await uow.commit()
