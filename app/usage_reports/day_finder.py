"""Finds the days that the ledger listing must read."""

from collections.abc import Sequence

from app.database.unit_of_work import UnitOfWork
from app.usage.filters import MatchingDay, UsageFilters
from app.usage_reports.day_repository import DayRepository, day_statement


class RollupDayFinder:
    """Finds days in the rollups: for a filter that matches nothing, the listing does not read the ledger."""

    async def prepare(self, filters: UsageFilters) -> None:
        await day_statement.prepare(filters.shape)

    async def days(self, uow: UnitOfWork, filters: UsageFilters) -> Sequence[MatchingDay]:
        return await uow[DayRepository].days(filters)
