"""What was used: sums over time, by group."""

import base64
import binascii
import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import StreamingResponse

from app.domain.billing import UsageMode
from app.domain.errors import InsufficientScope, InvalidInput, NotFound
from app.domain.money import to_usd
from app.domain.reports import BucketWidth, Dimension, Position, Report, ReportQuery, ReportRow, zone_of
from app.domain.usage import Outcome
from app.routers.answers import answer
from app.routers.csv import MEDIA_TYPE, WantsCsv, csv_row
from app.routers.dependencies import InstantQuery, ServicesOfApp, UsageReader
from app.routers.problems import problems
from app.schemas.reports import UsageReport
from app.services import Services
from app.services.reports import position_invalid

router = APIRouter(prefix="/v1/organizations/{organization_id}/usage-report", tags=["usage"])

_DEFAULT_LIMIT, _LARGEST_LIMIT = 1000, 10_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST = datetime(9999, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_COLUMNS = (
    *("starting_at", "ending_at", *Dimension, "requests", "uncached_input_tokens"),
    *("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens", "cache_read_input_tokens", "output_tokens"),
    *("web_search_requests", "currency", "estimated_cost", "billed_cost", "unpriced_requests"),
)

_Text = Annotated[str, Query(max_length=256, pattern=r"^[^\x00]*$")]
_AT_MOST = 100


def _only(dimension: Dimension) -> Any:
    return Query(
        alias=f"{dimension}[]", max_length=_AT_MOST, description=f"Only these values of `{dimension}`."
    )


class Question:
    """The report that is asked for, and from where on."""

    def __init__(self, query: ReportQuery, page: str | None) -> None:
        self.query = query
        self._page = page

    def position(self) -> Position | None:
        """Raises InvalidInput where the cursor is none of this report."""
        if self._page is None:
            return None
        try:
            content = base64.b64decode(
                self._page + "=" * (-len(self._page) % 4), altchars=b"-_", validate=True
            )
        except (binascii.Error, ValueError):
            raise position_invalid() from None
        question, start, end, digest = content[:8], content[8:16], content[16:24], content[24:]
        if question != self._digest() or len(digest) != hashlib.sha256().digest_size:
            raise position_invalid()
        return Position(starting_at=_instant(start), ending_at=_instant(end), digest=digest)

    def cursor(self, row: ReportRow, ending_at: datetime) -> str:
        content = b"".join((self._digest(), _bytes(row.starting_at), _bytes(ending_at), row.digest))
        return base64.urlsafe_b64encode(content).decode().rstrip("=")

    def _digest(self) -> bytes:
        """A cursor of another question would lead anywhere."""
        asked = self.query
        filters = [(dimension, sorted(map(str, asked.filters[dimension]))) for dimension in asked.filters]
        whole = (
            asked.starting_at,
            asked.ending_at,
            asked.bucket_width,
            asked.zone.key,
            asked.group_by,
            filters,
        )
        return hashlib.sha256(repr(whole).encode()).digest()[:8]


def _bytes(instant: datetime) -> bytes:
    return ((instant - _EPOCH) // _MICROSECOND).to_bytes(8)


def _instant(content: bytes) -> datetime:
    microseconds = int.from_bytes(content)
    if microseconds >= (_LATEST - _EPOCH) // _MICROSECOND:
        raise position_invalid()
    return _EPOCH + timedelta(microseconds=microseconds)


async def _question(
    starting_at: Annotated[InstantQuery, Query(description="From this instant on, inclusive.")],
    ending_at: Annotated[
        InstantQuery | None, Query(description="Up to this instant, exclusive. Default: now.")
    ] = None,
    bucket_width: Annotated[
        BucketWidth, Query(description="How long a bucket is, by the clock of `time_zone`.")
    ] = BucketWidth.DAY,
    time_zone: Annotated[
        str, Query(max_length=64, description="A name of the IANA time zone database.")
    ] = "UTC",
    group_by: Annotated[
        list[Dimension] | None,
        Query(alias="group_by[]", max_length=_AT_MOST, description="Which dimensions to tell apart."),
    ] = None,
    usage_mode: Annotated[list[UsageMode] | None, _only(Dimension.USAGE_MODE)] = None,
    model: Annotated[list[_Text] | None, _only(Dimension.MODEL)] = None,
    endpoint_id: Annotated[list[_Text] | None, _only(Dimension.ENDPOINT_ID)] = None,
    feature: Annotated[list[_Text] | None, _only(Dimension.FEATURE)] = None,
    session_id: Annotated[list[_Text] | None, _only(Dimension.SESSION_ID)] = None,
    prompt_id: Annotated[list[_Text] | None, _only(Dimension.PROMPT_ID)] = None,
    credential_id: Annotated[list[UUID] | None, _only(Dimension.CREDENTIAL_ID)] = None,
    key_version: Annotated[
        list[Annotated[int, Query(ge=1, le=2**31 - 1)]] | None, _only(Dimension.KEY_VERSION)
    ] = None,
    outcome: Annotated[list[Outcome] | None, _only(Dimension.OUTCOME)] = None,
    page: Annotated[
        str | None, Query(max_length=200, description="`next_page` of the page before, as it was.")
    ] = None,
) -> Question:
    try:
        zone = zone_of(time_zone)
    except ValueError:
        raise InvalidInput.of(
            "time_zone", "time_zone_invalid", "A name of the IANA database is needed, such as Europe/Berlin."
        ) from None
    if ending_at is not None and ending_at <= starting_at:
        raise InvalidInput.of("ending_at", "range_invalid", "The end must be later than the start.")
    given = {
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
    query = ReportQuery(
        starting_at=starting_at.astimezone(UTC),
        ending_at=None if ending_at is None else ending_at.astimezone(UTC),
        bucket_width=bucket_width,
        zone=zone,
        group_by=tuple(dimension for dimension in Dimension if dimension in (group_by or ())),
        filters={dimension: tuple(values) for dimension, values in given.items() if values is not None},
    )
    return Question(query, page)


@router.get(
    "",
    response_model=UsageReport,
    operation_id="getUsageReport",
    summary="Report usage",
    response_description="One page of the report; as CSV, all of it.",
    responses={
        200: {
            "content": {
                MEDIA_TYPE: {
                    "schema": {"type": "string"},
                    "examples": {"default": {"value": csv_row(_COLUMNS)}},
                }
            }
        },
        **problems(
            InvalidInput,
            InsufficientScope,
            NotFound,
            codes={422: ("page_invalid", "time_zone_invalid", "range_invalid")},
        ),
    },
)
async def get_usage_report(
    caller: UsageReader,
    services: ServicesOfApp,
    question: Annotated[Question, Depends(_question)],
    wants_csv: WantsCsv,
    limit: Annotated[
        int | None,
        Query(
            ge=1,
            le=_LARGEST_LIMIT,
            description=f"How many results at most; default {_DEFAULT_LIMIT}, for CSV all.",
        ),
    ] = None,
) -> Response:
    """Sums by bucket and group, exact and up to this moment: an event that was accepted is in the next report."""
    after = question.position()
    at_most = limit or (_LARGEST_LIMIT if wants_csv else _DEFAULT_LIMIT)
    report = await services.reports.read(
        caller.organization_id, question.query, after=after, at_most=at_most + 1
    )
    if wants_csv:
        lines = _lines(
            services, caller.organization_id, question.query, report, at_most, goes_on=limit is None
        )
        return StreamingResponse(lines, media_type=f"{MEDIA_TYPE}; charset=utf-8; header=present")
    rows = report.rows[:at_most]
    is_last = len(report.rows) <= at_most
    return answer(
        UsageReport.of(report, rows, None if is_last else question.cursor(rows[-1], report.ending_at))
    )


async def _lines(
    services: Services,
    organization_id: str,
    query: ReportQuery,
    report: Report,
    at_most: int,
    *,
    goes_on: bool,
) -> AsyncIterator[str]:
    """Page after page, each in a transaction of its own: no client that reads slowly holds one open."""
    yield csv_row(_COLUMNS)
    while True:
        rows = report.rows[:at_most]
        yield "".join(_line(row) for row in rows)
        if not goes_on or len(report.rows) <= at_most:
            return
        last = rows[-1]
        position = Position(starting_at=last.starting_at, ending_at=report.ending_at, digest=last.digest)
        report = await services.reports.read(organization_id, query, after=position, at_most=at_most + 1)


def _line(row: ReportRow) -> str:
    tokens = row.tokens
    return csv_row(
        (
            row.starting_at,
            row.ending_at,
            *(row.dimensions.get(dimension) for dimension in Dimension),
            row.requests,
            tokens.uncached_input,
            tokens.cache_write_5m,
            tokens.cache_write_1h,
            tokens.cache_read,
            tokens.output,
            tokens.web_search_requests,
            "USD",
            to_usd(row.cost),
            to_usd(row.billed),
            row.unpriced_requests,
        )
    )
