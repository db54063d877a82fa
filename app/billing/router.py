"""Read a month's statement, open or closed, and close it."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Response

from app.api.csv_export import MEDIA_TYPE, WantsCsv
from app.api.dependencies import BillingReader, BillingService, NoFields, ServicesOfApp
from app.api.pagination import Paging
from app.api.problems import OF_BODIES, problems
from app.api.responses import answer
from app.api.schemas import Page
from app.billing.focus_export import COLUMNS, focus_rows
from app.billing.month import PATTERN, BillingMonth
from app.billing.schemas import BillingStatement
from app.billing.service import StatementService
from app.billing.statements import Statement
from app.core.errors import InsufficientScope, InvalidInput, MonthNotOver, NotFound, ServiceOnly

router = APIRouter(prefix="/v1/organizations/{organization_id}/billing-statements", tags=["statements"])

Month = Annotated[
    str, Path(alias="month", pattern=PATTERN, description="A month, in UTC.", examples=["2026-11"])
]
_AS_CSV: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            MEDIA_TYPE: {
                "schema": {"type": "string"},
                "examples": {"header": {"value": ",".join(COLUMNS) + "\r\n"}},
            }
        }
    }
}


@router.get(
    "",
    response_model=Page[BillingStatement],
    operation_id="listBillingStatements",
    summary="List statements",
    response_description="A page of statements.",
    responses=problems(InvalidInput, InsufficientScope, NotFound, codes={422: ("page_invalid",)}),
)
async def list_statements(caller: BillingReader, services: ServicesOfApp, paging: Paging) -> Response:
    """The present month first, back to the first of which anything is known. Open ones as they stand."""
    statements = await services[StatementService].page(
        caller.organization_id, at_most=paging.at_most, before=paging.before_number()
    )
    return paging.answer(statements, BillingStatement.of, _number)


@router.get(
    "/{month}",
    response_model=BillingStatement,
    operation_id="getBillingStatement",
    summary="Read a statement",
    response_description="The statement, as JSON or as CSV.",
    responses={**problems(InsufficientScope, NotFound), **_AS_CSV},
)
async def get_statement(
    month: Month, caller: BillingReader, services: ServicesOfApp, wants_csv: WantsCsv
) -> Response:
    """As of one instant. `Accept: text/csv` exports it with the column names of FOCUS 1.x."""
    statement = await services[StatementService].read(caller.organization_id, BillingMonth.parse(month))
    if not wants_csv:
        return answer(BillingStatement.of(statement))
    name = f"{caller.organization_id}-{statement.month}.csv"
    return Response(
        "".join(focus_rows(caller.organization_id, statement)),
        media_type=MEDIA_TYPE,
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


@router.post(
    "/{month}/close",
    response_model=BillingStatement,
    operation_id="closeBillingStatement",
    summary="Close a month",
    response_description="The closed statement.",
    responses=problems(
        InvalidInput,
        InsufficientScope,
        ServiceOnly,
        NotFound,
        MonthNotOver,
        *OF_BODIES,
        codes={422: ("unknown_field",)},
    ),
)
async def close_statement(
    month: Month, caller: BillingService, services: ServicesOfApp, _body: NoFields
) -> Response:
    """For internal services. The month must be over. Closing it again answers the same statement.

    What comes late for a closed month becomes adjustment lines of the first open month after it.
    """
    return answer(
        BillingStatement.of(await services[StatementService].close(caller, BillingMonth.parse(month)))
    )


def _number(statement: Statement) -> int:
    return statement.month.number
