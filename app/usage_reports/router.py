"""HTTP routes of the usage report: totals over time and by dimension, as JSON or CSV."""

from collections.abc import AsyncIterator, Iterator
from typing import Annotated

from fastapi import Query, Request, Response

from app.api.csv_export import MEDIA_TYPE, ExportQueue, WantsCsv, csv_document, csv_response, csv_row
from app.api.dependencies import AppServices, UsageReader
from app.api.problems import problems
from app.api.routing import Router
from app.auth.principal import Caller, Scope
from app.core.errors import InsufficientScope, InvalidInput, NotFound
from app.core.money import to_usd
from app.core.services import Services
from app.export_links.router import LINK_PROBLEMS, create_link
from app.export_links.schemas import ExportLink
from app.usage.filter_parameters import EARLIER_DIMENSIONS, NEW_DIMENSIONS
from app.usage_reports.parameters import (
    RequestedCsv,
    RequestedReport,
    reject_unknown_csv_parameters,
    reject_unknown_parameters,
)
from app.usage_reports.reports import Position, Report, ReportQuery, ReportRow
from app.usage_reports.schemas import UsageReport, report_json
from app.usage_reports.service import ReportService

router = Router(prefix="/v1/organizations/{organization_id}", tags=["usage"])

_DEFAULT_LIMIT, _LARGEST_LIMIT = 1000, 10_000
# What release 0.1 had is first, so that its positions stay.
_COLUMNS = (
    *("starting_at", "ending_at", *EARLIER_DIMENSIONS, "requests", "uncached_input_tokens"),
    *("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens", "cache_read_input_tokens", "output_tokens"),
    *("web_search_requests", "currency", "estimated_cost", "billed_cost", "unpriced_requests"),
    *(*NEW_DIMENSIONS, "other"),
)
_CODES = {422: ("time_zone_invalid", "range_invalid", "unknown_field", "too_many_buckets")}
_LINK_CODES = {422: (*_CODES[422], "looks_like_key")}


@router.get(
    "/usage-report",
    response_model=UsageReport,
    operation_id="getUsageReport",
    summary="Get a usage report",
    response_description="One page of the report.",
    dependencies=[reject_unknown_parameters],
    responses=problems(
        InvalidInput, InsufficientScope, NotFound, codes={422: ("page_invalid", *_CODES[422])}
    ),
)
async def get_usage_report(
    caller: UsageReader,
    services: AppServices,
    report_request: RequestedReport,
    wants_csv: WantsCsv,
    limit: Annotated[
        int | None,
        Query(
            ge=1,
            le=_LARGEST_LIMIT,
            description=f"The maximum number of results. Default: {_DEFAULT_LIMIT}; for CSV, all results.",
        ),
    ] = None,
) -> Response:
    """Return totals by bucket and group. They are exact: every accepted event is in the next report.

    With `order_by`, a group whose order changes between two pages may be missing on the later one; none appears twice.
    With `Accept: text/csv` the response is that of `exportUsageReport`, with at most `limit` results.
    """
    after = report_request.position()
    if wants_csv:
        return await _export(caller, services, report_request.query, after=after, limit=limit)
    at_most = limit or _DEFAULT_LIMIT
    report = await services[ReportService].read(
        caller.organization_id, report_request.query, after=after, at_most=at_most + 1
    )
    is_last = len(report.rows) <= at_most
    next_page = None if is_last else report_request.cursor(report, report.rows[at_most - 1])
    return Response(await report_json(report, at_most, next_page), media_type="application/json")


@router.get(
    "/usage-report.csv",
    response_class=Response,
    operation_id="exportUsageReport",
    summary="Export a usage report",
    response_description="The whole report as CSV.",
    dependencies=[reject_unknown_csv_parameters],
    responses=csv_document(_COLUMNS) | problems(InvalidInput, InsufficientScope, NotFound, codes=_CODES),
)
async def export_usage_report(caller: UsageReader, services: AppServices, query: RequestedCsv) -> Response:
    """Return all results of a report, one per line. Cells of dimensions that the report is not grouped by are empty."""
    return await _export(caller, services, query, after=None, limit=None)


@router.post(
    "/usage-report.csv/links",
    status_code=201,
    response_model=ExportLink,
    operation_id="createUsageReportLink",
    summary="Create a link to a usage report",
    response_description="The link.",
    dependencies=[reject_unknown_csv_parameters],
    responses=problems(*LINK_PROBLEMS, InsufficientScope, NotFound, codes=_LINK_CODES),
)
async def create_usage_report_link(
    request: Request, caller: UsageReader, services: AppServices, _query: RequestedCsv
) -> Response:
    """Create a link to the file of `exportUsageReport` with the same query, which a browser opens without a token.

    It can be opened once, within a minute. An organization has at most 100 open links (429 `rate_limited`).
    """
    return await create_link(request, caller, services, Scope.USAGE_READ, query=request.url.query)


async def _export(
    caller: Caller, services: Services, query: ReportQuery, *, after: Position | None, limit: int | None
) -> Response:
    at_most = limit or _LARGEST_LIMIT
    report = await services[ReportService].read(
        caller.organization_id, query, after=after, at_most=at_most + 1
    )
    return csv_response(
        _pages(services, caller.organization_id, query, report, at_most, goes_on=limit is None),
        slot=services[ExportQueue].slot(caller.organization_id),
        header=_COLUMNS,
        name=f"usage-report-{caller.organization_id}.csv",
        as_of=report.as_of,
        media_type=f"{MEDIA_TYPE}; charset=utf-8; header=present",
    )


async def _pages(
    services: Services,
    organization_id: str,
    query: ReportQuery,
    report: Report,
    at_most: int,
    *,
    goes_on: bool,
) -> AsyncIterator[Iterator[str]]:
    """Yield the CSV lines of each page, one transaction per page, so that a slow client does not keep one open."""
    while True:
        yield _lines(report, at_most)
        if not goes_on or len(report.rows) <= at_most:
            return
        position = report.position(report.rows[at_most - 1], query.ranking)
        report = await services[ReportService].read(
            organization_id, query, after=position, at_most=at_most + 1, is_started=True
        )


def _lines(report: Report, at_most: int) -> Iterator[str]:
    for (starting_at, ending_at), rows in report.by_bucket(at_most):
        yield from map(_line, rows)
        if not rows:
            no_dimensions = [None] * len(EARLIER_DIMENSIONS)
            yield csv_row(
                (starting_at, ending_at, *no_dimensions, *[0] * 7, "USD", to_usd(0), to_usd(0), 0)
                + (None,) * len(NEW_DIMENSIONS)
                + ("false",)
            )


def _line(row: ReportRow) -> str:
    tokens = row.tokens
    return csv_row(
        (
            row.starting_at,
            row.ending_at,
            *(row.dimensions.get(dimension) for dimension in EARLIER_DIMENSIONS),
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
            *(row.dimensions.get(dimension) for dimension in NEW_DIMENSIONS),
            "true" if row.is_other else "false",
        )
    )
