"""Ingestion without prices and without limits, for tests that are about neither."""

from collections.abc import Sequence
from datetime import datetime

from app.database.unit_of_work import UnitOfWork
from app.usage.records import Charge, ModelUsage, UsageFlag


class Unpriced:
    """A list that knows no price: every request is in the ledger, without a cost."""

    cost: int | None = None
    price_version: str | None = None
    flags = UsageFlag.NONE

    async def of(self, _uow: UnitOfWork) -> "Unpriced":
        return self

    def price(
        self,
        parts: Sequence[ModelUsage],  # noqa: ARG002  # the seam's
        *,
        at: datetime,  # noqa: ARG002  # likewise
        is_compatible_endpoint: bool = False,  # noqa: ARG002  # likewise
    ) -> "Unpriced":
        return self


class Unlimited:
    """No limits are set."""

    async def settle(self, uow: UnitOfWork, rows: Sequence[Charge]) -> None:
        """There is nothing to count against."""
