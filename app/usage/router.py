"""Usage events: take them into the ledger, and read its rows."""

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect

from app.api.csv_export import MEDIA_TYPE, WantsCsv, csv_row
from app.api.dependencies import InstantQuery, ServicesOfApp, UsageReader, UsageWriter, only_parameters
from app.api.pagination import Paging
from app.api.problems import problem_response, problems
from app.api.responses import answer
from app.api.schemas import Page
from app.auth.principal import Caller
from app.core.errors import (
    DatabaseUnavailable,
    IngestionOverloaded,
    InsufficientScope,
    InvalidInput,
    LineTooLong,
    MalformedJson,
    NotFound,
)
from app.usage.body_reader import Intake
from app.usage.event_openapi import EVENTS_BODY
from app.usage.events import LONGEST_DIMENSION
from app.usage.filters import RowCursor, UsageFilter
from app.usage.listing import UsageListingService
from app.usage.records import LedgerRow, Outcome
from app.usage.schemas import CSV_HEADER, EventResults, UsageRow, csv_cells
from app.usage.service import IngestionService
from app.usage_mode.modes import UsageMode

router = APIRouter(prefix="/v1/organizations/{organization_id}/usage-events", tags=["usage"])

_NDJSON = "application/x-ndjson"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_INSTANT_BYTES, _CORRECTION_BYTES = 8, 4
_LARGEST_INTEGER = 2**31 - 1


@router.post(
    "",
    response_model=EventResults,
    operation_id="ingestUsageEvents",
    summary="Take in usage events",
    response_description="What became of them; all that were accepted are committed.",
    responses=problems(
        InvalidInput,
        InsufficientScope,
        NotFound,
        MalformedJson,
        LineTooLong,
        IngestionOverloaded,
        408,
        415,
        codes={422: ("unknown_field", "too_many_events")},
    ),
    openapi_extra={"requestBody": EVENTS_BODY},
)
async def ingest_usage_events(request: Request, caller: UsageWriter, services: ServicesOfApp) -> Response:
    """Each event counts once: the same one again is a `duplicate`, its id with other content a `conflict`. One bad event never spoils the others.

    JSON is committed whole, up to 5,000 events and 16 MiB. NDJSON has no end: up to 64 KiB a line, committed in
    chunks; an error in the middle says in `committed` how many lines were taken, and nothing after them was.
    Repeating a request is always safe. Idempotency-Key is ignored.
    """
    intake = Intake(services[IngestionService], caller.organization_id)
    if not _is_ndjson(request):
        await intake.take_json(await request.body())
        return answer(intake.results)
    try:
        await intake.take_lines(request.stream())
    except (LineTooLong, IngestionOverloaded, DatabaseUnavailable) as error:
        return problem_response(caller.request_id, error, committed=intake.committed)
    except ClientDisconnect:
        # Nobody reads this. What had come whole is committed; sent again, it is found to be duplicates.
        return problem_response(caller.request_id, MalformedJson(), committed=intake.committed)
    return answer(intake.results)


def _is_ndjson(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == _NDJSON


def _text(description: str) -> Any:
    return Query(min_length=1, max_length=LONGEST_DIMENSION, pattern=r"^[^\x00]*$", description=description)


async def _filter(
    usage_mode: Annotated[UsageMode | None, Query(description="Only those of this mode.")] = None,
    model: Annotated[str | None, _text("Only those of this model.")] = None,
    endpoint_id: Annotated[str | None, _text("Only those of this endpoint.")] = None,
    feature: Annotated[str | None, _text("Only those of this feature.")] = None,
    session_id: Annotated[str | None, _text("Only those of this session.")] = None,
    prompt_id: Annotated[str | None, _text("Only those of this prompt.")] = None,
    credential_id: Annotated[UUID | None, Query(description="Only those on this credential.")] = None,
    key_version: Annotated[
        int | None, Query(ge=1, le=_LARGEST_INTEGER, description="Only those on this version of a key.")
    ] = None,
    outcome: Annotated[Outcome | None, Query(description="Only those that ended so.")] = None,
    starting_at: Annotated[InstantQuery | None, Query(description="From this instant on, inclusive.")] = None,
    ending_at: Annotated[InstantQuery | None, Query(description="Up to this instant, exclusive.")] = None,
) -> UsageFilter:
    return UsageFilter(
        usage_mode=usage_mode,
        model=model,
        endpoint_id=endpoint_id,
        feature=feature,
        session_id=session_id,
        prompt_id=prompt_id,
        credential_id=credential_id,
        key_version=key_version,
        outcome=outcome,
        starting_at=starting_at,
        ending_at=ending_at,
    )


# A filter in the report's spelling would silently list everything.
_only_known = Depends(
    only_parameters(
        *(field.name for field in fields(UsageFilter)),
        *("limit", "page"),
        hint="Filters are named without brackets here: usage_mode.",
    )
)


@router.get(
    "",
    dependencies=[_only_known],
    response_model=Page[UsageRow],
    operation_id="listUsageEvents",
    summary="List the ledger's rows",
    response_description="One page of rows; all of them as CSV.",
    responses={
        200: {
            "content": {MEDIA_TYPE: {"schema": {"type": "string"}, "examples": {"default": {"value": ""}}}}
        },
        **problems(InvalidInput, InsufficientScope, NotFound, codes={422: ("page_invalid", "unknown_field")}),
    },
)
async def list_usage_events(
    caller: UsageReader,
    services: ServicesOfApp,
    paging: Paging,
    found_by: Annotated[UsageFilter, Depends(_filter)],
    wants_csv: WantsCsv,
) -> Response:
    """The newest first, by `started_at`. `Accept: text/csv` exports all that is found, without `limit`. A row stays as it was written; a correction is a row of its own."""
    after = paging.after(_place)
    if wants_csv:
        pages = services[UsageListingService].pages(caller.organization_id, found_by, after=after)
        return await _export(caller, pages)
    rows = await services[UsageListingService].page(
        caller.organization_id, found_by, at_most=paging.at_most, after=after
    )
    return paging.answer(rows, UsageRow.of, _cursor)


async def _export(caller: Caller, pages: AsyncIterator[Sequence[LedgerRow]]) -> Response:
    # Before the answer begins: once it has, a failure can only cut it short.
    first: Sequence[LedgerRow] = ()
    with suppress(StopAsyncIteration):
        first = await anext(pages)

    async def lines() -> AsyncIterator[str]:
        yield csv_row(CSV_HEADER) + _lines(first)
        async for rows in pages:
            yield _lines(rows)

    name = f"usage-events-{caller.organization_id}.csv"
    return StreamingResponse(
        lines(), media_type=MEDIA_TYPE, headers={"Content-Disposition": f'attachment; filename="{name}"'}
    )


def _lines(rows: Sequence[LedgerRow]) -> str:
    return "".join(csv_row(csv_cells(row)) for row in rows)


def _cursor(row: LedgerRow) -> bytes:
    microseconds = (row.started_at - _EPOCH) // _MICROSECOND
    return (
        microseconds.to_bytes(_INSTANT_BYTES)
        + row.correction.to_bytes(_CORRECTION_BYTES)
        + row.event_id.encode()
    )


def _place(content: bytes) -> RowCursor:
    """Raises ValueError or OverflowError where it is none of ours."""
    event_id = content[_INSTANT_BYTES + _CORRECTION_BYTES :].decode()
    correction = int.from_bytes(content[_INSTANT_BYTES:][:_CORRECTION_BYTES])
    if not event_id or "\0" in event_id or correction > _LARGEST_INTEGER:
        raise ValueError("none of ours")
    return RowCursor(
        started_at=_EPOCH + int.from_bytes(content[:_INSTANT_BYTES]) * _MICROSECOND,
        event_id=event_id,
        correction=correction,
    )
