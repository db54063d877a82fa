"""Money on the wire: decimal strings, never floating-point numbers."""

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from app.api.schemas import RequestModel, ResponseModel, unvalidated
from app.core.money import LARGEST_AMOUNT_PICO, to_pico, to_usd

# Digits only: no sign, no exponent, at most twelve decimal places.
_AMOUNT = r"^(0|[1-9][0-9]{0,8})(\.[0-9]{1,12})?$"


def _within_range(amount: str) -> str:
    if to_pico(Decimal(amount)) > LARGEST_AMOUNT_PICO:
        raise PydanticCustomError("amount_too_large", "The amount is too large.")
    return amount


class MoneyAmount(RequestModel):
    """An amount of money in a request."""

    amount: Annotated[
        str,
        Field(pattern=_AMOUNT, description="An amount in USD, as a decimal string.", examples=["250.00"]),
        AfterValidator(_within_range),
    ]
    currency: Annotated[Literal["USD"], Field(examples=["USD"])]

    @property
    def pico(self) -> int:
        return to_pico(Decimal(self.amount))


class Money(ResponseModel):
    """An exact amount of money."""

    amount: Annotated[str, Field(description="An exact decimal string.", examples=["12.345678"])]
    currency: Annotated[Literal["USD"], Field(examples=["USD"])] = "USD"

    @classmethod
    def of(cls, pico: int) -> "Money":
        return _money(amount=to_usd(pico), currency="USD")


_money = unvalidated(Money)
