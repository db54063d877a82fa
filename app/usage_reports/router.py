"""What was used: sums over time, by group."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse

from app.api.csv_export import MEDIA_TYPE, WantsCsv, csv_row
from app.api.dependencies import ServicesOfApp, UsageReader
from app.api.problems import problems
from app.api.responses import answer
from app.core.errors import InsufficientScope, InvalidInput, NotFound
from app.core.money import to_usd
from app.core.services import Services
from app.usage_reports.parameters import AskedReport, only_known
from app.usage_reports.reports import Dimension, Position, Report, ReportQuery, ReportRow
from app.usage_reports.schemas import UsageReport
from app.usage_reports.service import ReportService

router = APIRouter(prefix="/v1/organizations/{organization_id}/usage-report", tags=["usage"])

_DEFAULT_LIMIT, _LARGEST_LIMIT = 1000, 10_000
_COLUMNS = (
    *("starting_at", "ending_at", *Dimension, "requests", "uncached_input_tokens"),
    *("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens", "cache_read_input_tokens", "output_tokens"),
    *("web_search_requests", "currency", "estimated_cost", "billed_cost", "unpriced_requests"),
)


@router.get(
    "",
    response_model=UsageReport,
    operation_id="getUsageReport",
    summary="Report usage",
    response_description="One page of the report; as CSV, all of it.",
    dependencies=[only_known],
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
            codes={422: ("page_invalid", "time_zone_invalid", "range_invalid", "unknown_field")},
        ),
    },
)
async def get_usage_report(
    caller: UsageReader,
    services: ServicesOfApp,
    question: AskedReport,
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
    report = await services[ReportService].read(
        caller.organization_id, question.query, after=after, at_most=at_most + 1
    )
    if wants_csv:
        lines = _lines(
            services, caller.organization_id, question.query, report, at_most, goes_on=limit is None
        )
        name = f"usage-report-{caller.organization_id}.csv"
        return StreamingResponse(
            lines,
            media_type=f"{MEDIA_TYPE}; charset=utf-8; header=present",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )
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
        report = await services[ReportService].read(
            organization_id, query, after=position, at_most=at_most + 1
        )


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
