"""The seams between the ledger and what prices it and settles it, and a list without prices."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from app.domain.usage import LedgerRow, ModelUsage, UsageFlag
from app.repositories.unit_of_work import UnitOfWork


class PricedRequest(Protocol):
    """What a request costs, in pico-USD. `cost` is None where no price is known."""

    @property
    def cost(self) -> int | None: ...
    @property
    def price_version(self) -> str | None: ...
    @property
    def flags(self) -> UsageFlag: ...


class PriceList(Protocol):
    """Prices as one organization pays them."""

    def price(
        self, parts: Sequence[ModelUsage], *, at: datetime, is_compatible_endpoint: bool = False
    ) -> PricedRequest: ...


class Prices(Protocol):
    """Where price lists come from."""

    async def of(self, uow: UnitOfWork) -> PriceList: ...


class Limits(Protocol):
    """Counts spend against limits, in the ledger's own transaction."""

    async def settle(self, uow: UnitOfWork, rows: Sequence[LedgerRow]) -> None: ...


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

    async def settle(self, uow: UnitOfWork, rows: Sequence[LedgerRow]) -> None:
        """There is nothing to count against."""
