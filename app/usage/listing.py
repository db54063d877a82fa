"""Reading the ledger row by row, newest first."""

from collections.abc import AsyncIterator, Sequence

from app.database.unit_of_work import UnitsOfWork
from app.usage.filters import RowCursor, UsageFilter
from app.usage.listing_repository import UsageListingRepository
from app.usage.records import LedgerRow

_ROWS_AT_ONCE = 1000


class UsageListingService:
    """Pages and exports. An export reads page after page: a slow reader holds no transaction open."""

    def __init__(self, units: UnitsOfWork) -> None:
        self._units = units

    async def page(
        self, organization_id: str, found_by: UsageFilter, *, at_most: int, after: RowCursor | None
    ) -> Sequence[LedgerRow]:
        """Raises DatabaseUnavailable."""
        async with self._units.reading(organization_id) as uow:
            return await uow[UsageListingRepository].page(found_by, at_most=at_most, after=after)

    async def pages(
        self, organization_id: str, found_by: UsageFilter, *, after: RowCursor | None
    ) -> AsyncIterator[Sequence[LedgerRow]]:
        """All of them. What is ingested meanwhile may be among them; nothing comes twice.

        Raises:
            DatabaseUnavailable
        """
        while True:
            rows = await self.page(organization_id, found_by, at_most=_ROWS_AT_ONCE, after=after)
            if rows:
                yield rows
            if len(rows) < _ROWS_AT_ONCE:
                return
            after = RowCursor.of(rows[-1])
