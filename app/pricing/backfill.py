"""Prices events that had no price when they came: after an upgrade of the list or, when asked for, by overrides set since."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.jobs.queue import DueItem, JobKind, QueueRepository
from app.pricing.backfill_repository import BEGINNING, Position, PriceBackfillRepository
from app.pricing.corrections import Correction, UnpricedEvent, correction_of
from app.pricing.service import PriceService
from app.usage.ports import SpendRecorder

_AT_ONCE = 500
_ORGANIZATIONS_AT_ONCE = 100
_NOBODY = UUID(int=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backfilled:
    """What a back-fill did for one organization: events priced now, and those still without a price."""

    organization_id: str
    priced: int
    unpriced: int


class PriceBackfillService:
    """Appends corrections and never rewrites; a second run, or one at the same time, finds what is left."""

    def __init__(self, units: UnitsOfWork, prices: PriceService, limits: SpendRecorder) -> None:
        self._units = units
        self._prices = prices
        self._limits = limits

    async def run(
        self, *, with_overrides: bool = False, progress: Callable[[Backfilled], None] = lambda _: None
    ) -> Sequence[Backfilled]:
        """Every organization that has an event without a price, one after the other.

        Raises:
            DatabaseUnavailable: what was committed until then stays; run it again.
        """
        done: list[Backfilled] = []
        after = ""
        while True:
            async with self._units.across(QueueRepository) as (queue, _):
                found = await queue.usage_organizations(after=after, at_most=_ORGANIZATIONS_AT_ONCE)
            for organization_id in found:
                result = await self.run_for(organization_id, with_overrides=with_overrides)
                if result.priced or result.unpriced:
                    progress(result)
                    done.append(result)
            if len(found) < _ORGANIZATIONS_AT_ONCE:
                return done
            after = found[-1]

    async def run_for(self, organization_id: str, *, with_overrides: bool = False) -> Backfilled:
        """One organization, in transactions of some hundred events.

        Args:
            organization_id: whose events.
            with_overrides: what has no price at its own instant gets that of the override in force now.
        """
        priced = unpriced = 0
        after: Position | None = BEGINNING
        while after is not None:
            async with self._units.writing(organization_id) as uow:
                now = await uow[PriceBackfillRepository].begin()
                page = await uow[PriceBackfillRepository].unpriced(after=after, at_most=_AT_ONCE)
                corrections = await self._corrections(uow, page.events, now if with_overrides else None)
                if corrections:
                    await self._append(uow, organization_id, corrections, now)
                    await uow.commit()
            priced += len(corrections)
            unpriced += len(page.events) - len(corrections)
            after = page.last
        return Backfilled(organization_id=organization_id, priced=priced, unpriced=unpriced)

    async def _corrections(
        self, uow: UnitOfWork, events: Sequence[UnpricedEvent], overrides_of: datetime | None
    ) -> Sequence[Correction]:
        if not events:
            return []
        since = min(min(event.started_at, event.ingested_at) for event in events)
        prices = await self._prices.of(uow, since=since)
        found = (correction_of(event, prices, overrides_of=overrides_of) for event in events)
        return [correction for correction in found if correction is not None]

    async def _append(
        self, uow: UnitOfWork, organization_id: str, corrections: Sequence[Correction], now: datetime
    ) -> None:
        await self._limits.settle(uow, await uow[PriceBackfillRepository].append(corrections, now=now))
        # Last, since others wait for it where the item is new.
        item = DueItem(organization_id=organization_id, kind=JobKind.FOLD_USAGE, id=_NOBODY)
        await uow[QueueRepository].add(item, due_at=now)
