"""HTTP routes of billing statements: list, get, export and close."""

from datetime import datetime
from typing import Annotated

from fastapi import Path, Request, Response

from app.api.csv_export import MEDIA_TYPE, WantsCsv, csv_document, file_headers
from app.api.dependencies import AppServices, BillingReader, InternalBillingWriter, NoFields
from app.api.pagination import Paging
from app.api.problems import BODY_ERRORS, problems
from app.api.routing import Router
from app.api.schemas import Page
from app.auth.principal import Caller, Scope
from app.billing.focus_export import COLUMNS, focus_rows
from app.billing.month import PATTERN, BillingMonth
from app.billing.schemas import BillingStatement, statement_json
from app.billing.service import StatementService
from app.billing.statements import Statement
from app.core.errors import InsufficientScope, InvalidInput, MonthNotOver, NotFound, RateLimited, ServiceOnly
from app.core.event_loop import list_in_slices
from app.core.services import Services
from app.export_links.router import create_link
from app.export_links.schemas import ExportLink

router = Router(prefix="/v1/organizations/{organization_id}/billing-statements", tags=["statements"])

# Each takes up to 20 microseconds.
_CSV_ROWS_AT_ONCE = 20

Month = Annotated[
    str, Path(alias="month", pattern=PATTERN, description="A month in UTC.", examples=["2026-11"])
]


@router.get(
    "",
    response_model=Page[BillingStatement],
    operation_id="listBillingStatements",
    summary="List billing statements",
    response_description="One page of statements.",
    responses=problems(InvalidInput, InsufficientScope, NotFound, codes={422: ("page_invalid",)}),
)
async def list_statements(caller: BillingReader, services: AppServices, paging: Paging) -> Response:
    """List monthly statements, from the current month back to the first month with any data.

    An open statement is computed for the request and may change until the month is closed.
    """
    statements = await services[StatementService].page(
        caller.organization_id, at_most=paging.at_most, before=paging.before_number()
    )
    return await paging.respond_piece_by_piece(statements, statement_json, _number)


# Before the route of the statement itself, whose pattern would take the suffix for a part of the month.
@router.get(
    "/{month}.csv",
    response_class=Response,
    operation_id="exportBillingStatement",
    summary="Export a billing statement",
    response_description="The statement as CSV.",
    responses=csv_document(COLUMNS) | problems(InsufficientScope, NotFound),
)
async def export_statement(month: Month, caller: BillingReader, services: AppServices) -> Response:
    """Return the statement of a month, one line of the statement per line, with the column names of FOCUS 1.x.

    `Data-As-Of` of a closed statement is the time when it was closed.
    """
    return await _export(caller, *await _read(services, caller, month))


@router.post(
    "/{month}.csv/links",
    status_code=201,
    response_model=ExportLink,
    operation_id="createBillingStatementLink",
    summary="Create a link to a billing statement",
    response_description="The link.",
    responses=problems(RateLimited, InsufficientScope, NotFound),
)
async def create_statement_link(
    request: Request, month: Month, caller: BillingReader, services: AppServices
) -> Response:
    """Create a link to the file of `exportBillingStatement`, which a browser opens without a token.

    It can be opened once, within a minute. An organization has at most 100 open links (429 `rate_limited`).
    """
    await _read(services, caller, month)
    return await create_link(request, caller, services, Scope.BILLING_READ)


@router.get(
    "/{month}",
    response_model=BillingStatement,
    operation_id="getBillingStatement",
    summary="Get a billing statement",
    response_description="The statement.",
    responses=problems(InsufficientScope, NotFound),
)
async def get_statement(
    month: Month, caller: BillingReader, services: AppServices, wants_csv: WantsCsv
) -> Response:
    """Return the statement of a month, computed from one snapshot of the ledger.

    With `Accept: text/csv` the response is that of `exportBillingStatement`.
    """
    statement, as_of = await _read(services, caller, month)
    return await (_export(caller, statement, as_of) if wants_csv else _respond(statement))


async def _read(services: Services, caller: Caller, month: str) -> tuple[Statement, datetime]:
    return await services[StatementService].read(caller.organization_id, BillingMonth.parse(month))


async def _respond(statement: Statement) -> Response:
    return Response(await statement_json(statement), media_type="application/json")


async def _export(caller: Caller, statement: Statement, as_of: datetime) -> Response:
    name = f"{caller.organization_id}-{statement.month}.csv"
    return Response(
        "".join(
            await list_in_slices(
                focus_rows(caller.organization_id, statement), items_per_step=_CSV_ROWS_AT_ONCE
            )
        ),
        media_type=MEDIA_TYPE,
        headers=file_headers(name, as_of=as_of),
    )


@router.post(
    "/{month}/close",
    response_model=BillingStatement,
    operation_id="closeBillingStatement",
    summary="Close a billing statement",
    response_description="The closed statement.",
    responses=problems(
        InvalidInput,
        InsufficientScope,
        ServiceOnly,
        NotFound,
        MonthNotOver,
        *BODY_ERRORS,
        codes={422: ("unknown_field",)},
    ),
)
async def close_statement(
    month: Month, caller: InternalBillingWriter, services: AppServices, _body: NoFields
) -> Response:
    """Close the statement of a month that is over. For internal services.

    A closed statement never changes. Closing it again returns the same statement. Late usage of a closed month becomes
    adjustment lines of the first open month after it.
    """
    return await _respond(await services[StatementService].close(caller, BillingMonth.parse(month)))


def _number(statement: Statement) -> int:
    return statement.month.number
