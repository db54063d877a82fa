"""Lists the rows of the ledger, newest first."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from app.core.admission import AdmissionQueue
from app.database.found_rows import FoundRows
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.usage.filters import RowCursor, RowFilter, ranges_of_page
from app.usage.listing_repository import UsageListingRepository, prepare_statements
from app.usage.ports import DayFinder
from app.usage_events.records import LedgerRow

_ROWS_AT_ONCE = 1000
_EARLIEST, _LATEST = (datetime(year, 1, 1, tzinfo=UTC) for year in (1970, 9999))


@dataclass(frozen=True, slots=True)
class ListedRows:
    """One page. Every row that was ingested before `as_of`, and belongs on the page, is on it."""

    rows: Sequence[LedgerRow]
    as_of: datetime


class UsageListingService:
    """Pages and exports. An export uses one transaction per page, so that a slow reader does not keep one open."""

    def __init__(self, units: UnitsOfWork, admission: AdmissionQueue, day_finder: DayFinder) -> None:
        self._units = units
        self._admission = admission
        self._day_finder = day_finder

    async def page(
        self,
        organization_id: str,
        filters: RowFilter,
        *,
        at_most: int,
        after: RowCursor | None,
        is_started: bool = False,
    ) -> ListedRows:
        """Return one page. With `is_started` it waits for a slot as long as it takes.

        Raises:
            ConcurrencyLimited, DatabaseUnavailable
        """
        prepare = partial(self._prepare, filters, is_first=after is None)
        async with self._admission.slot(organization_id, is_started=is_started, prepare=prepare):
            async with self._units.reading_in_bulk(organization_id) as uow:
                as_of = uow.complete_until or await uow[UsageListingRepository].clock()
                found = await self._find(uow, filters, at_most=at_most, after=after)
            return ListedRows([] if found is None else await found.records(), as_of)

    async def _prepare(self, filters: RowFilter, *, is_first: bool) -> None:
        """Compile the statements before a slot is taken: others may wait for it, and this may wait for others."""
        await prepare_statements(filters, is_first=is_first)
        if filters.usage.shape.dimensions and not filters.uses_ledger_index:
            await self._day_finder.prepare(filters.usage)

    async def _find(
        self, uow: UnitOfWork, filters: RowFilter, *, at_most: int, after: RowCursor | None
    ) -> FoundRows[LedgerRow] | None:
        """Find out on which days rows match, and read only those: a filter that matches little would read all rows."""
        listing = uow[UsageListingRepository]
        ranges = [filters.cut(_EARLIEST, _LATEST)]
        if filters.uses_ledger_index:
            ranges = ranges_of_page(await listing.days(filters), filters, at_most=at_most, after=after)
        elif filters.usage.shape.dimensions:
            days = await self._day_finder.days(uow, filters.usage)
            ranges = ranges_of_page(days, filters, at_most=at_most, after=after)
        if not ranges:
            return None
        return await listing.page(filters, at_most=at_most, after=after, time_ranges=ranges)

    async def pages(
        self, organization_id: str, filters: RowFilter, *, after: RowCursor | None
    ) -> AsyncIterator[ListedRows]:
        """Yield all rows, page by page, without repetitions. The first page may be empty.

        Every row that was ingested before `as_of` of the first page is on one of them. Rows that are ingested during the
        export may be too.

        Raises:
            ConcurrencyLimited: only before the first page.
            DatabaseUnavailable
        """
        is_started = False
        while True:
            page = await self.page(
                organization_id, filters, at_most=_ROWS_AT_ONCE, after=after, is_started=is_started
            )
            is_started = True
            yield page
            if len(page.rows) < _ROWS_AT_ONCE:
                return
            after = RowCursor.of(page.rows[-1])
