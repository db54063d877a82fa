"""Ingestion without prices and spend limits, for tests that need neither."""

from collections.abc import Sequence
from datetime import datetime

from app.core.clock import now
from app.database.unit_of_work import UnitOfWork
from app.usage_events.records import Charge, ModelUsage, UsageFlag


class NoPrices:
    """A price list without prices: requests are recorded without a cost."""

    cost: int | None = None
    price_version: str | None = None
    flags = UsageFlag.NONE

    async def load(self, _uow: UnitOfWork) -> "NoPrices":
        return self

    def without_overrides(self) -> "NoPrices":
        return self

    async def load_with_clock(self, _uow: UnitOfWork) -> "tuple[NoPrices, datetime]":
        return self, now()

    def price(
        self,
        parts: Sequence[ModelUsage],  # noqa: ARG002  # part of the protocol
        *,
        at: datetime,  # noqa: ARG002  # part of the protocol
        is_compatible_endpoint: bool = False,  # noqa: ARG002  # part of the protocol
    ) -> "NoPrices":
        return self

    def price_each(
        self,
        parts: Sequence[ModelUsage],
        *,
        at: datetime,  # noqa: ARG002  # part of the protocol
        is_compatible_endpoint: bool = False,  # noqa: ARG002  # part of the protocol
    ) -> "Sequence[NoPrices]":
        return [self for _ in parts]


class NoLimits:
    """An organization without spend limits."""

    async def settle(self, uow: UnitOfWork, rows: Sequence[Charge]) -> None:
        """Do nothing: no limit counts spend."""
