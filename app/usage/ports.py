"""Protocols that the ledger calls: to price events, to settle reservations, and to find rows. Tests implement them with their own prices."""

from collections.abc import Sequence
from typing import Protocol

from app.database.unit_of_work import UnitOfWork
from app.usage.filters import MatchingDay, UsageFilters
from app.usage_events.priced_event import Pricer
from app.usage_events.records import Charge


class PriceSource(Protocol):
    """Loads the prices of one organization."""

    async def load(self, uow: UnitOfWork) -> Pricer: ...

    def without_overrides(self) -> Pricer:
        """The prices of an organization that has no price overrides."""
        ...


class SpendRecorder(Protocol):
    """Counts spend against limits, in the transaction that writes the ledger."""

    async def settle(self, uow: UnitOfWork, rows: Sequence[Charge]) -> None: ...


class DayFinder(Protocol):
    """Finds the UTC days on which rows match a filter, newest first, without reading the rows."""

    async def prepare(self, filters: UsageFilters) -> None:
        """Do what takes no transaction, before one begins."""
        ...

    async def days(self, uow: UnitOfWork, filters: UsageFilters) -> Sequence[MatchingDay]: ...
