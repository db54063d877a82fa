"""HTTP routes of the ledger: list its rows, export them as CSV."""

from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Query, Request, Response
from pydantic import AfterValidator

from app.api.csv_export import ExportQueue, WantsCsv, csv_document, csv_response, csv_row
from app.api.dependencies import AppServices, UsageReader, only_parameters
from app.api.pagination import Paging
from app.api.problems import problems
from app.api.routing import Router
from app.auth.principal import Caller, Scope
from app.core.errors import (
    InsufficientScope,
    InvalidInput,
    NotFound,
)
from app.core.services import Services
from app.export_links.router import LINK_PROBLEMS, create_link
from app.export_links.schemas import ExportLink
from app.usage.filter_parameters import (
    EARLIER_DIMENSIONS,
    FILTER_NAMES,
    LARGEST_INTEGER,
    NEW_DIMENSIONS,
    TIME_NAMES,
    AllFilters,
    ChosenTimes,
    DaysQuery,
    Only,
    TimesQuery,
    Without,
    ZoneQuery,
    choose_times,
    combine,
    list_filters,
    require_visible,
)
from app.usage.filters import Dimension, DimensionValue, RowCursor, RowFilter, UsageFilters
from app.usage.listing import UsageListingService
from app.usage.schemas import CSV_HEADER, UsageRow, UsageRowPage, csv_cells
from app.usage_events.events import MAX_DIMENSION_LENGTH, MAX_EVENT_ID_LENGTH
from app.usage_events.records import LedgerRow, Outcome
from app.usage_mode.modes import UsageMode

router = Router(prefix="/v1/organizations/{organization_id}", tags=["usage"])

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_INSTANT_BYTES, _CORRECTION_BYTES = 8, 4

# Release 0.1 had these filters, each with one value. The document shows them and not their lists, because generated clients
# give both the same name. The export, which release 0.1 did not have, has only the lists.
_OneText = Annotated[
    str,
    Query(min_length=1, max_length=MAX_DIMENSION_LENGTH, pattern=r"^[^\x00]*$"),
    AfterValidator(require_visible),
]


def _one(dimension: Dimension, example: object) -> Any:
    return Query(
        description=f"Only rows with this `{dimension}`. For several values repeat `{dimension}[]` instead.",
        examples=[example],
    )


async def _one_value_each(
    usage_mode: Annotated[UsageMode | None, _one(Dimension.USAGE_MODE, "byo")] = None,
    model: Annotated[_OneText | None, _one(Dimension.MODEL, "claude-haiku-5-5")] = None,
    endpoint_id: Annotated[_OneText | None, _one(Dimension.ENDPOINT_ID, "chat")] = None,
    feature: Annotated[_OneText | None, _one(Dimension.FEATURE, "support")] = None,
    session_id: Annotated[_OneText | None, _one(Dimension.SESSION_ID, "session-1")] = None,
    prompt_id: Annotated[_OneText | None, _one(Dimension.PROMPT_ID, "prompt-1")] = None,
    credential_id: Annotated[
        UUID | None, _one(Dimension.CREDENTIAL_ID, "0199a2b4-c6d8-7e01-a2b3-c4d5e6f70819")
    ] = None,
    key_version: Annotated[
        int | None, Query(ge=1, le=LARGEST_INTEGER), _one(Dimension.KEY_VERSION, 1)
    ] = None,
    outcome: Annotated[Outcome | None, _one(Dimension.OUTCOME, "failed")] = None,
) -> Only:
    values: dict[Dimension, DimensionValue | None] = {
        Dimension.USAGE_MODE: usage_mode,
        Dimension.MODEL: model,
        Dimension.ENDPOINT_ID: endpoint_id,
        Dimension.FEATURE: feature,
        Dimension.SESSION_ID: session_id,
        Dimension.PROMPT_ID: prompt_id,
        Dimension.CREDENTIAL_ID: credential_id,
        Dimension.KEY_VERSION: key_version,
        Dimension.OUTCOME: outcome,
    }
    return {dimension: (value,) for dimension, value in values.items() if value is not None}


async def _ids(
    event_id: Annotated[
        str | None,
        Query(
            max_length=MAX_EVENT_ID_LENGTH,
            pattern=r"^[^\x00]*$",
            description="Only the rows of this event.",
            examples=["0199a2b4-d1c2-7a3b-8c4d-5e6f70819203"],
        ),
    ] = None,
    provider_request_id: Annotated[
        str | None,
        Query(
            max_length=MAX_DIMENSION_LENGTH,
            pattern=r"^[^\x00]*$",
            description="Only the rows of this request to the provider.",
            examples=["req_011CSHoEeqs5C35K2UUqR7Fy"],
        ),
    ] = None,
) -> tuple[str | None, str | None]:
    return event_id, provider_request_id


async def _zone(time_zone: ZoneQuery = "UTC") -> str:
    return time_zone


_IdsQuery = Annotated[tuple[str | None, str | None], Depends(_ids)]
_Zone = Annotated[str, Depends(_zone)]


async def _filter(
    one: Annotated[Only, Depends(_one_value_each)],
    times: TimesQuery,
    several: Annotated[Only, Depends(list_filters(*EARLIER_DIMENSIONS, in_schema=False))],
    newer: Annotated[Only, Depends(list_filters(*NEW_DIMENSIONS))],
    without: Without,
    ids: _IdsQuery,
    days: DaysQuery,
    time_zone: _Zone,
) -> RowFilter:
    """The order of these parameters is that of the document: what release 0.1 had is first."""
    return _row_filter(
        combine(one, several, newer, without=without), ids, choose_times(times, days, time_zone)
    )


async def _export_filter(
    filters: AllFilters, ids: _IdsQuery, times: TimesQuery, days: DaysQuery, time_zone: _Zone
) -> RowFilter:
    return _row_filter(filters, ids, choose_times(times, days, time_zone))


def _row_filter(usage: UsageFilters, ids: tuple[str | None, str | None], times: ChosenTimes) -> RowFilter:
    return RowFilter(
        usage=usage,
        event_id=ids[0],
        provider_request_id=ids[1],
        starting_at=times.starting_at,
        ending_at=times.ending_at,
    )


_NAMES = (*TIME_NAMES, *FILTER_NAMES, "event_id", "provider_request_id")
# Reject unknown parameters: with a misspelled filter, the response would list all rows.
_reject_unknown_parameters = Depends(
    only_parameters(
        *_NAMES,
        *EARLIER_DIMENSIONS,
        *("limit", "page"),
        hint="Write filters as in the documentation, for example `usage_mode` or `usage_mode[]`.",
    )
)
_reject_unknown_export_parameters = Depends(
    only_parameters(*_NAMES, hint="Write filters with brackets, for example `usage_mode[]`.")
)
_FILTER_CODES = ("time_zone_invalid", "range_invalid", "unknown_field")


@router.get(
    "/usage-events",
    dependencies=[_reject_unknown_parameters],
    response_model=UsageRowPage,
    operation_id="listUsageEvents",
    summary="List usage events",
    response_description="One page of rows.",
    responses=problems(
        InvalidInput, InsufficientScope, NotFound, codes={422: ("page_invalid", *_FILTER_CODES)}
    ),
)
async def list_usage_events(
    caller: UsageReader,
    services: AppServices,
    paging: Paging,
    filters: Annotated[RowFilter, Depends(_filter)],
    wants_csv: WantsCsv,
) -> Response:
    """List the ledger's rows by `started_at`, newest first. Rows never change; a correction is a separate row.

    Every filter of the report works here too, also with several values: `model[]=a&model[]=b`. With `Accept: text/csv` the
    response is that of `exportUsageEvents`, and `limit` is ignored.
    """
    after = paging.after(_decode_cursor)
    if wants_csv:
        return await _export(caller, services, filters, after=after)
    page = await services[UsageListingService].page(
        caller.organization_id, filters, at_most=paging.at_most, after=after
    )
    return paging.respond(page.rows, UsageRow.of, _encode_cursor, model=UsageRowPage, data_as_of=page.as_of)


@router.get(
    "/usage-events.csv",
    dependencies=[_reject_unknown_export_parameters],
    response_class=Response,
    operation_id="exportUsageEvents",
    summary="Export usage events",
    response_description="All matching rows as CSV.",
    responses=csv_document(CSV_HEADER)
    | problems(InvalidInput, InsufficientScope, NotFound, codes={422: _FILTER_CODES}),
)
async def export_usage_events(
    caller: UsageReader, services: AppServices, filters: Annotated[RowFilter, Depends(_export_filter)]
) -> Response:
    """Return all rows of the ledger that match, newest first, one per line. Amounts are exact decimal strings."""
    return await _export(caller, services, filters, after=None)


@router.post(
    "/usage-events.csv/links",
    dependencies=[_reject_unknown_export_parameters],
    status_code=201,
    response_model=ExportLink,
    operation_id="createUsageEventsLink",
    summary="Create a link to usage events",
    response_description="The link.",
    responses=problems(
        *LINK_PROBLEMS, InsufficientScope, NotFound, codes={422: (*_FILTER_CODES, "looks_like_key")}
    ),
)
async def create_usage_events_link(
    request: Request,
    caller: UsageReader,
    services: AppServices,
    _filters: Annotated[RowFilter, Depends(_export_filter)],
) -> Response:
    """Create a link to the file of `exportUsageEvents` with the same query, which a browser opens without a token.

    It can be opened once, within a minute. An organization has at most 100 open links (429 `rate_limited`).
    """
    return await create_link(request, caller, services, Scope.USAGE_READ, query=request.url.query)


async def _export(
    caller: Caller, services: Services, filters: RowFilter, *, after: RowCursor | None
) -> Response:
    pages = services[UsageListingService].pages(caller.organization_id, filters, after=after)
    # Read the first page before the response starts. After that, an error can only truncate the response.
    first = await anext(pages)

    async def lines() -> AsyncIterator[Iterator[str]]:
        yield _lines(first.rows)
        async for page in pages:
            yield _lines(page.rows)

    return csv_response(
        lines(),
        slot=services[ExportQueue].slot(caller.organization_id),
        header=CSV_HEADER,
        name=f"usage-events-{caller.organization_id}.csv",
        as_of=first.as_of,
    )


def _lines(rows: Sequence[LedgerRow]) -> Iterator[str]:
    return (csv_row(csv_cells(row)) for row in rows)


def _encode_cursor(row: LedgerRow) -> bytes:
    microseconds = (row.started_at - _EPOCH) // _MICROSECOND
    return (
        microseconds.to_bytes(_INSTANT_BYTES)
        + row.correction.to_bytes(_CORRECTION_BYTES, signed=True)
        + row.event_id.encode()
        # Cursors of events with a single part are the same as before events had parts.
        + (b"" if row.part == 0 else b"\0" + str(row.part).encode())
    )


def _decode_cursor(content: bytes) -> RowCursor:
    """Decode a cursor.

    Raises:
        ValueError, OverflowError: the cursor is not valid.
    """
    event_id, _, part = content[_INSTANT_BYTES + _CORRECTION_BYTES :].decode().partition("\0")
    position = RowCursor(
        started_at=_EPOCH + int.from_bytes(content[:_INSTANT_BYTES]) * _MICROSECOND,
        event_id=event_id,
        part=int(part or "0"),
        correction=int.from_bytes(content[_INSTANT_BYTES:][:_CORRECTION_BYTES], signed=True),
    )
    if not event_id or not 0 <= position.part <= LARGEST_INTEGER:
        raise ValueError("invalid cursor")
    return position
