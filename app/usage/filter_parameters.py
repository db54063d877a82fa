"""Query parameters that choose usage: a time range and filters by dimension. The ledger listing and reports share them."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID
from zoneinfo import ZoneInfo

from fastapi import Depends, Query
from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from app.api.dependencies import TimestampQuery
from app.api.text import is_blank
from app.core.errors import InvalidInput
from app.core.time_zones import parse_time_zone, start_of_day
from app.usage.filters import FLAGS, Dimension, DimensionValue, OptionalDimension, UsageFilters
from app.usage_events.records import Outcome, UsageSource
from app.usage_mode.modes import UsageMode

LARGEST_INTEGER = 2**31 - 1
MAX_VALUES = 100
_DAY = timedelta(days=1)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_FIRST_YEAR, _LAST_YEAR = 1971, 9997


def require_visible(text: str) -> str:
    """Reject a filter value that no event can have. `without[]` finds usage that has no value."""
    if is_blank(text):
        raise PydanticCustomError("text_blank", "The text is blank.")
    return text


def _known_flag(name: str) -> str:
    if name not in FLAGS:
        raise PydanticCustomError("enum", "Must be one of the flags.")
    return name


_Text = Annotated[str, Query(max_length=256, pattern=r"^[^\x00]*$"), AfterValidator(require_visible)]
_Number = Annotated[int, Query(ge=1, le=LARGEST_INTEGER)]
_Flag = Annotated[str, AfterValidator(_known_flag), Field(json_schema_extra={"enum": list(FLAGS)})]

# The type of each dimension's values, with examples.
_VALUES: Mapping[Dimension, tuple[Any, Sequence[Any]]] = {
    Dimension.USAGE_MODE: (UsageMode, ["byo"]),
    Dimension.MODEL: (_Text, ["claude-opus-5-5", "claude-haiku-5-5"]),
    Dimension.ENDPOINT_ID: (_Text, ["chat"]),
    Dimension.FEATURE: (_Text, ["support", "search"]),
    Dimension.SESSION_ID: (_Text, ["session-1"]),
    Dimension.PROMPT_ID: (_Text, ["prompt-1"]),
    Dimension.CREDENTIAL_ID: (UUID, ["0199a2b4-c6d8-7e01-a2b3-c4d5e6f70819"]),
    Dimension.KEY_VERSION: (_Number, [1, 2]),
    Dimension.OUTCOME: (Outcome, ["failed", "aborted"]),
    Dimension.USAGE_SOURCE: (UsageSource, ["estimated"]),
    Dimension.SERVICE_TIER: (_Text, ["batch"]),
    Dimension.SPEED: (_Text, ["fast"]),
    Dimension.INFERENCE_GEO: (_Text, ["us"]),
    Dimension.FLAG: (_Flag, ["band_assumed"]),
}
NEW_DIMENSIONS = (
    Dimension.USAGE_SOURCE,
    Dimension.SERVICE_TIER,
    Dimension.SPEED,
    Dimension.INFERENCE_GEO,
    Dimension.FLAG,
)
EARLIER_DIMENSIONS = tuple(it for it in Dimension if it not in NEW_DIMENSIONS)
_NOTES = {
    Dimension.MODEL: " A model includes its dated snapshots.",
    Dimension.FLAG: " A request may have several flags.",
}

Only = Mapping[Dimension, Sequence[DimensionValue]]


def list_filters(*dimensions: Dimension, in_schema: bool = True) -> Callable[..., Any]:
    """Make a dependency that reads `dimension[]` of each dimension into a mapping of the values that were sent.

    Args:
        dimensions: in the order of the document.
        in_schema: whether the OpenAPI document shows the parameters.
    """

    async def filters(**values: Sequence[DimensionValue] | None) -> Only:
        return {Dimension(name): tuple(sent) for name, sent in values.items() if sent is not None}

    parameters = [
        inspect.Parameter(
            it.value,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=_annotation(it, in_schema=in_schema),
        )
        for it in dimensions
    ]
    filters.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # FastAPI reads it
    return filters


def _annotation(dimension: Dimension, *, in_schema: bool) -> Any:
    value, examples = _VALUES[dimension]
    return Annotated[
        list[value] | None,  # type: ignore[valid-type]  # the type is chosen here
        Query(
            alias=f"{dimension}[]",
            max_length=MAX_VALUES,
            description=f"Only usage with one of these values of `{dimension}`." + _NOTES.get(dimension, ""),
            examples=[examples],
            include_in_schema=in_schema,
        ),
    ]


async def _without(
    without: Annotated[
        list[OptionalDimension] | None,
        Query(
            alias="without[]",
            max_length=MAX_VALUES,
            description="Only usage without a value of these dimensions. If there is also a filter for one of them, usage"
            " with one of its values is included.",
            examples=[["feature"]],
        ),
    ] = None,
) -> frozenset[Dimension]:
    return frozenset(Dimension(it.value) for it in without or ())


Without = Annotated[frozenset[Dimension], Depends(_without)]


def combine(*filters: Only, without: frozenset[Dimension]) -> UsageFilters:
    """Combine the values of each dimension."""
    only: dict[Dimension, tuple[DimensionValue, ...]] = {}
    for one in filters:
        for dimension, values in one.items():
            only[dimension] = (*only.get(dimension, ()), *values)
    return UsageFilters(only={it: only[it] for it in Dimension if it in only}, without=without)


async def _all_filters(
    earlier: Annotated[Only, Depends(list_filters(*EARLIER_DIMENSIONS))],
    newer: Annotated[Only, Depends(list_filters(*NEW_DIMENSIONS))],
    without: Without,
) -> UsageFilters:
    return combine(earlier, newer, without=without)


AllFilters = Annotated[UsageFilters, Depends(_all_filters)]
FILTER_NAMES = (*(f"{dimension}[]" for dimension in Dimension), "without[]")


def _require_date(value: object) -> object:
    if isinstance(value, str) and _DATE.fullmatch(value):
        return value
    raise PydanticCustomError("date_parsing", "Must be a date.")


def _in_range(day: date) -> date:
    """Reject days of which a time zone may have no start that PostgreSQL can represent."""
    if not _FIRST_YEAR <= day.year <= _LAST_YEAR:
        raise ValueError("out of range")
    return day


_Day = Annotated[date, BeforeValidator(_require_date), AfterValidator(_in_range)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Days:
    """Calendar dates instead of times. `ending_on` is the last day."""

    starting_on: date | None
    ending_on: date | None


async def _days(
    starting_on: Annotated[
        _Day | None,
        Query(
            description="The first day, by the calendar of `time_zone`. Instead of `starting_at`.",
            examples=["2026-11-01"],
        ),
    ] = None,
    ending_on: Annotated[
        _Day | None,
        Query(
            description="The last day, inclusive, by the calendar of `time_zone`. Instead of `ending_at`.",
            examples=["2026-11-30"],
        ),
    ] = None,
) -> Days:
    return Days(starting_on=starting_on, ending_on=ending_on)


DaysQuery = Annotated[Days, Depends(_days)]
ZoneQuery = Annotated[
    str,
    Query(
        max_length=64, description="A time zone name of the IANA database.", examples=["UTC", "Europe/Berlin"]
    ),
]


async def _times(
    starting_at: Annotated[
        TimestampQuery | None,
        Query(
            description="Start of the range of `started_at`, inclusive.", examples=["2026-11-01T00:00:00Z"]
        ),
    ] = None,
    ending_at: Annotated[
        TimestampQuery | None,
        Query(
            description="End of the range of `started_at`, exclusive. Default: no end.",
            examples=["2026-12-01T00:00:00Z"],
        ),
    ] = None,
) -> tuple[datetime | None, datetime | None]:
    return starting_at, ending_at


TimesQuery = Annotated[tuple[datetime | None, datetime | None], Depends(_times)]
TIME_NAMES = ("starting_at", "ending_at", "starting_on", "ending_on", "time_zone")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenTimes:
    """A time range in UTC. The end is exclusive; None means no bound."""

    starting_at: datetime | None
    ending_at: datetime | None
    zone: ZoneInfo


def choose_times(times: tuple[datetime | None, datetime | None], days: Days, time_zone: str) -> ChosenTimes:
    """Combine times and days.

    Raises:
        InvalidInput: the zone is unknown, a bound is given twice, or the range ends before it starts.
    """
    try:
        zone = parse_time_zone(time_zone)
    except ValueError:
        raise InvalidInput.of(
            "time_zone",
            "time_zone_invalid",
            "Must be a time zone name of the IANA database, for example `Europe/Berlin`.",
        ) from None
    starting_at, ending_at = times
    _reject_both("starting_on", starting_at, days.starting_on)
    _reject_both("ending_on", ending_at, days.ending_on)
    if days.starting_on is not None and days.ending_on is not None and days.ending_on < days.starting_on:
        raise InvalidInput.of("ending_on", "range_invalid", "Must not be earlier than `starting_on`.")
    return ChosenTimes(
        starting_at=_utc(starting_at, days.starting_on, zone),
        ending_at=_utc(ending_at, None if days.ending_on is None else days.ending_on + _DAY, zone),
        zone=zone,
    )


def _reject_both(field: str, instant: datetime | None, day: date | None) -> None:
    if instant is not None and day is not None:
        raise InvalidInput.of(field, "range_invalid", "Pass either a date or a time, not both.")


def _utc(instant: datetime | None, day: date | None, zone: ZoneInfo) -> datetime | None:
    if day is not None:
        return start_of_day(day, zone)
    return None if instant is None else instant.astimezone(UTC)
