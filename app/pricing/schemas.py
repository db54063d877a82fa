"""Organizations' own prices on the wire: decimal strings in USD, by class."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from app.api.schemas import GivenInstant, Instant, RequestModel, ResponseModel, Subject
from app.core.money import to_pico, to_usd
from app.credentials.schemas import refuse_key_in
from app.pricing.prices import OverrideList, PriceOverride
from app.pricing.rates import Rates
from app.pricing.service import OverrideState

LARGEST_LIST = 200
_TOKENS, _SEARCHES = 1_000_000, 1_000
_LAST_YEAR = 9998
# Finer would be finer than a pico-USD per token.
_PRICE = r"^(0|[1-9][0-9]{0,3})(\.[0-9]{1,6})?$"
# As ids of models look, wherever they come from. One star, and only at the end.
_MODEL = r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,98}\*?$|^\*$"

Price = Annotated[str, Field(pattern=_PRICE, description="USD, as a decimal string.", examples=["4.50"])]
OptionalPrice = Annotated[
    str | None,
    Field(
        pattern=_PRICE,
        description="USD, as a decimal string. Null: no price; usage of this class is then unpriced.",
        examples=["0.45"],
    ),
]
Model = Annotated[
    str,
    Field(
        pattern=_MODEL,
        description="A model's id, which means its dated snapshots too; with `*` at the end, all that begin so.",
        examples=["claude-opus-5-5"],
    ),
]
AnyPrice = Annotated[str | None, Field(description="USD, exact. Null: no price.", examples=["4.50"])]
ListNumber = Annotated[int, Field(description="Counts the lists of the organization.", examples=[1])]


class TokenPrices(RequestModel):
    """Prices of one million tokens, by class."""

    uncached_input: Price
    cache_write_5m: OptionalPrice = None
    cache_write_1h: OptionalPrice = None
    cache_read: OptionalPrice = None
    output: Price


class PriceOverrideEntry(RequestModel):
    """The organization's price of a model, or of all whose ids begin alike."""

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


def _each_model_once(entries: Sequence[PriceOverrideEntry]) -> Sequence[PriceOverrideEntry]:
    if len({entry.model for entry in entries}) < len(entries):
        raise PydanticCustomError("model_repeated", "A model stands in the list more than once.")
    return entries


def _that_a_database_can_hold(instant: datetime | None) -> datetime | None:
    # The last year there is ends later in some zones.
    if instant is not None and instant.year > _LAST_YEAR:
        raise PydanticCustomError("instant_too_far", "The instant is too far away.")
    return instant


class PriceOverridesChange(RequestModel):
    """The whole list; an empty one takes every override back."""

    effective_at: Annotated[
        GivenInstant | None,
        Field(description="Null: now. Never in the past."),
        AfterValidator(_that_a_database_can_hold),
    ] = None
    overrides: Annotated[
        list[PriceOverrideEntry], Field(max_length=LARGEST_LIST), AfterValidator(_each_model_once)
    ]

    def to_domain(self) -> list[PriceOverride]:
        """Raises InvalidInput where a key was pasted: the ids of models are kept in clear and shown."""
        for entry in self.overrides:
            refuse_key_in("overrides.model", entry.model)
        return [entry.to_domain() for entry in self.overrides]


class TokenPricesSet(ResponseModel):
    """Prices of one million tokens, by class."""

    uncached_input: AnyPrice
    cache_write_5m: AnyPrice
    cache_write_1h: AnyPrice
    cache_read: AnyPrice
    output: AnyPrice


class PriceOverrideSet(ResponseModel):
    """The organization's price of a model, or of all whose ids begin alike."""

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
    """A list of overrides and since when it counts. `price_version` of rows that it priced is `override-<number>`."""

    number: ListNumber
    effective_from: Instant
    set_at: Instant
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
    """The organization's own prices."""

    in_force: Annotated[
        PriceOverrideListState | None, Field(description="Null: none was ever set; list prices count.")
    ]
    scheduled: Annotated[
        PriceOverrideListState | None, Field(description="Takes its place later. Null: nothing does.")
    ]

    @classmethod
    def of(cls, state: OverrideState) -> "PriceOverrides":
        return cls(
            in_force=None if state.in_force is None else PriceOverrideListState.of(state.in_force),
            scheduled=None if state.scheduled is None else PriceOverrideListState.of(state.scheduled),
        )


def _pico(usd: str, units: int) -> int:
    # Exact: the pattern allows six digits after the point.
    return to_pico(Decimal(usd)) // units


def _pico_or_none(usd: str | None, units: int) -> int | None:
    return None if usd is None else _pico(usd, units)


def _usd(pico: int | None, units: int) -> str | None:
    return None if pico is None else to_usd(pico * units)
