"""Prices events that had no price at ingestion: after an upgrade of the price list or, on request, with later overrides."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from app.database.cells.directory import in_cell
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.jobs.queue import DueItem, JobKind, QueueRepository
from app.pricing.backfill_repository import BEGINNING, Position, PriceBackfillRepository
from app.pricing.corrections import Correction, UnpricedEvent, correction_for
from app.pricing.service import PriceService
from app.usage.ports import SpendRecorder
from app.usage_events.kept_usage import unpack

_EVENTS_PER_TRANSACTION = 500
_ORGANIZATIONS_PER_PAGE = 100
_NIL_ID = UUID(int=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackfillResult:
    """The result of a backfill for one organization: ledger rows priced now, and rows still without a price."""

    organization_id: str
    priced: int
    unpriced: int


class PriceBackfillService:
    """Appends corrections and never changes rows. Repeated and concurrent runs price only what is left."""

    def __init__(self, units: UnitsOfWork, prices: PriceService, limits: SpendRecorder) -> None:
        self._units = units
        self._prices = prices
        self._limits = limits

    async def run(
        self, *, with_overrides: bool = False, progress: Callable[[BackfillResult], None] = lambda _: None
    ) -> Sequence[BackfillResult]:
        """Backfill all organizations with unpriced events, one after the other.

        Raises:
            DatabaseUnavailable: earlier commits remain. Run it again.
        """
        done: list[BackfillResult] = []
        for cell in await self._units.cells():
            async for organization_id in self._organizations(cell):
                result = await self.run_for(organization_id, with_overrides=with_overrides)
                if result.priced or result.unpriced:
                    progress(result)
                    done.append(result)
        return done

    async def _organizations(self, cell: str) -> AsyncIterator[str]:
        """The organizations of a cell that have events in the ledger."""
        after = ""
        while True:
            with in_cell(cell):
                async with self._units.unscoped(QueueRepository) as (queue, _):
                    found = await queue.usage_organizations(after=after, at_most=_ORGANIZATIONS_PER_PAGE)
            for organization_id in found:
                yield organization_id
            if len(found) < _ORGANIZATIONS_PER_PAGE:
                return
            after = found[-1]

    async def run_for(self, organization_id: str, *, with_overrides: bool = False) -> BackfillResult:
        """Backfill one organization, in transactions of 500 events.

        Args:
            organization_id: the organization.
            with_overrides: events without a price at their start get the price of the currently active overrides.
        """
        priced = unpriced = 0
        after: Position | None = BEGINNING
        while after is not None:
            async with self._units.writing(organization_id) as uow:
                now = await uow[PriceBackfillRepository].lock_ledger()
                page = await uow[PriceBackfillRepository].unpriced(
                    after=after, at_most=_EVENTS_PER_TRANSACTION
                )
                corrections = await self._corrections(uow, page.events, now if with_overrides else None)
                if corrections:
                    await self._append(uow, organization_id, corrections, now)
                    await uow.commit()
            priced += len(corrections)
            unpriced += len(page.events) - len(corrections)
            after = page.last
        return BackfillResult(organization_id=organization_id, priced=priced, unpriced=unpriced)

    async def _corrections(
        self, uow: UnitOfWork, events: Sequence[UnpricedEvent], overrides_at: datetime | None
    ) -> Sequence[Correction]:
        if not events:
            return []
        since = min(min(event.started_at, event.ingested_at) for event in events)
        prices = await self._prices.load(uow, since=since)
        packed = await uow[PriceBackfillRepository].usage_objects(events)
        wanted = {event.event_id for event in events}
        # One batch after the other, because a batch takes more memory than what is needed of it.
        kept = {it.event_id: it for batch in packed for it in unpack(batch) if it.event_id in wanted}
        found = (
            correction_for(event, prices, kept=kept.get(event.event_id), overrides_at=overrides_at)
            for event in events
        )
        return [correction for correction in found if correction is not None]

    async def _append(
        self, uow: UnitOfWork, organization_id: str, corrections: Sequence[Correction], now: datetime
    ) -> None:
        await self._limits.settle(uow, await uow[PriceBackfillRepository].append(corrections, now=now))
        # Last, because concurrent transactions wait for this one if it inserts the item.
        item = DueItem(organization_id=organization_id, kind=JobKind.FOLD_USAGE, id=_NIL_ID)
        await uow[QueueRepository].add(item, due_at=now)
