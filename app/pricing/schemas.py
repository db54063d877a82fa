"""Wire models of price overrides: decimal strings in USD, by price class."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from app.api.schemas import InputTimestamp, RequestModel, ResponseModel, Subject, Timestamp
from app.core.money import to_pico, to_usd
from app.credentials.key_in_fields import reject_key_in
from app.pricing.prices import OverrideList, PriceOverride
from app.pricing.rates import Rates
from app.pricing.service import OverrideState
from app.usage_events.dimensions import Dimension

MAX_OVERRIDES = 200
_TOKENS, _SEARCHES = 1_000_000, 1_000
_LAST_YEAR = 9998
# Six decimals per million tokens are exactly one pico-USD per token.
_PRICE = r"^(0|[1-9][0-9]{0,3})(\.[0-9]{1,6})?$"

Price = Annotated[str, Field(pattern=_PRICE, description="USD as a decimal string.", examples=["4.50"])]
OptionalPrice = Annotated[
    str | None,
    Field(
        pattern=_PRICE,
        description="USD as a decimal string. Null: no price, so requests that use this class are unpriced.",
        examples=["0.45"],
    ),
]
Model = Annotated[
    Dimension,
    Field(
        description="A model id as events have it, in the spelling of any provider or gateway. It includes its dated"
        " snapshots and `-latest`. With `*`: all models that match, where `*` matches any text. An id wins over a"
        " pattern, and a pattern with more text over one with less.",
        examples=["claude-opus-5-5", "us.anthropic.claude-opus-5-v1:0", "anthropic/*"],
    ),
]
AnyPrice = Annotated[
    str | None, Field(description="USD as an exact decimal string. Null: no price.", examples=["4.50"])
]
ListNumber = Annotated[
    int, Field(description="Number of the list, counted per organization from 1.", examples=[1])
]


class TokenPrices(RequestModel):
    """Prices per million tokens, by price class."""

    uncached_input: Price
    cache_write_5m: OptionalPrice = None
    cache_write_1h: OptionalPrice = None
    cache_read: OptionalPrice = None
    output: Price


class PriceOverrideEntry(RequestModel):
    """The organization's own price of a model, or of all models that match a pattern."""

    model: Model
    usd_per_million_tokens: TokenPrices
    usd_per_thousand_web_searches: OptionalPrice = None

    def to_domain(self) -> PriceOverride:
        tokens = self.usd_per_million_tokens
        rates = Rates(
            uncached_input=_pico(tokens.uncached_input, _TOKENS),
            cache_write_5m=_pico_or_none(tokens.cache_write_5m, _TOKENS),
            cache_write_1h=_pico_or_none(tokens.cache_write_1h, _TOKENS),
            cache_read=_pico_or_none(tokens.cache_read, _TOKENS),
            output=_pico(tokens.output, _TOKENS),
            web_search=_pico_or_none(self.usd_per_thousand_web_searches, _SEARCHES),
        )
        return PriceOverride(model=self.model, rates=rates)


def _unique_models(entries: Sequence[PriceOverrideEntry]) -> Sequence[PriceOverrideEntry]:
    if len({entry.model for entry in entries}) < len(entries):
        raise PydanticCustomError(
            "model_repeated", "The list contains a model more than once. Keep one entry per model."
        )
    return entries


def _storable_timestamp(instant: datetime | None) -> datetime | None:
    # In some time zones the year 9999 ends later than in UTC.
    if instant is not None and instant.year > _LAST_YEAR:
        raise PydanticCustomError("instant_too_far", "Must be before the year 9999.")
    return instant


class PriceOverridesChange(RequestModel):
    """The complete list. An empty list removes all overrides."""

    effective_at: Annotated[
        InputTimestamp | None,
        Field(description="When the list becomes active. Null: now. Must not be in the past."),
        AfterValidator(_storable_timestamp),
    ] = None
    overrides: Annotated[
        list[PriceOverrideEntry],
        Field(max_length=MAX_OVERRIDES, fail_fast=True),
        AfterValidator(_unique_models),
    ]

    def to_domain(self) -> list[PriceOverride]:
        """Convert to domain types.

        Raises:
            InvalidInput: a model id looks like a key. Model ids are stored in plain text and displayed.
        """
        for entry in self.overrides:
            reject_key_in("overrides.model", entry.model)
        return [entry.to_domain() for entry in self.overrides]


class TokenPricesSet(ResponseModel):
    """Prices per million tokens, by price class."""

    uncached_input: AnyPrice
    cache_write_5m: AnyPrice
    cache_write_1h: AnyPrice
    cache_read: AnyPrice
    output: AnyPrice


class PriceOverrideSet(ResponseModel):
    """The organization's own price of a model, or of all models that match a pattern."""

    model: Annotated[str, Field(examples=["claude-opus-5-5"])]
    usd_per_million_tokens: TokenPricesSet
    usd_per_thousand_web_searches: AnyPrice

    @classmethod
    def of(cls, override: PriceOverride) -> "PriceOverrideSet":
        rates = override.rates
        return cls(
            model=override.model,
            usd_per_million_tokens=TokenPricesSet(
                uncached_input=_usd(rates.uncached_input, _TOKENS),
                cache_write_5m=_usd(rates.cache_write_5m, _TOKENS),
                cache_write_1h=_usd(rates.cache_write_1h, _TOKENS),
                cache_read=_usd(rates.cache_read, _TOKENS),
                output=_usd(rates.output, _TOKENS),
            ),
            usd_per_thousand_web_searches=_usd(rates.web_search, _SEARCHES),
        )


class PriceOverrideListState(ResponseModel):
    """A list of price overrides. Rows priced by it have the `price_version` `override-<number>`."""

    number: ListNumber
    effective_from: Timestamp
    set_at: Timestamp
    set_by: Subject
    overrides: list[PriceOverrideSet]

    @classmethod
    def of(cls, record: OverrideList) -> "PriceOverrideListState":
        return cls(
            number=record.number,
            effective_from=record.effective_from,
            set_at=record.set_at,
            set_by=record.set_by,
            overrides=[
                PriceOverrideSet.of(one) for one in sorted(record.overrides, key=lambda one: one.model)
            ],
        )


class PriceOverrides(ResponseModel):
    """The organization's price overrides."""

    in_force: Annotated[
        PriceOverrideListState | None,
        Field(description="The active list. Null: no list was ever set, so list prices apply."),
    ]
    scheduled: Annotated[
        PriceOverrideListState | None,
        Field(description="The list that becomes active later. Null: no list is scheduled."),
    ]

    @classmethod
    def of(cls, state: OverrideState) -> "PriceOverrides":
        return cls(
            in_force=None if state.active is None else PriceOverrideListState.of(state.active),
            scheduled=None if state.scheduled is None else PriceOverrideListState.of(state.scheduled),
        )


def _pico(usd: str, units: int) -> int:
    # Exact, because the pattern allows at most six decimals.
    return to_pico(Decimal(usd)) // units


def _pico_or_none(usd: str | None, units: int) -> int | None:
    return None if usd is None else _pico(usd, units)


def _usd(pico: int | None, units: int) -> str | None:
    return None if pico is None else to_usd(pico * units)
