"""The seams between the ledger and what prices it and settles it. Tests set prices of their own behind them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from app.database.unit_of_work import UnitOfWork
from app.usage.records import Charge, ModelUsage, UsageFlag


class PricedRequest(Protocol):
    """What a request costs, in pico-USD. `cost` is None where no price is known."""

    @property
    def cost(self) -> int | None: ...
    @property
    def price_version(self) -> str | None: ...
    @property
    def flags(self) -> UsageFlag: ...


class Pricer(Protocol):
    """Prices as one organization pays them."""

    def price(
        self, parts: Sequence[ModelUsage], *, at: datetime, is_compatible_endpoint: bool = False
    ) -> PricedRequest: ...


class PriceSource(Protocol):
    """Where price lists come from."""

    async def of(self, uow: UnitOfWork) -> Pricer: ...


class SpendRecorder(Protocol):
    """Counts spend against limits, in the ledger's own transaction."""

    async def settle(self, uow: UnitOfWork, rows: Sequence[Charge]) -> None: ...
