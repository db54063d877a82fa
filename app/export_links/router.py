"""HTTP route that opens a link. The routes that create links are beside those of the exports."""

from typing import Annotated

from fastapi import Path, Request, Response
from starlette.types import Receive, Scope, Send

from app.api.csv_export import csv_document
from app.api.dependencies import AppServices, OrganizationId
from app.api.problems import problems
from app.api.responses import respond
from app.api.routing import Router
from app.auth.principal import Caller, Principal
from app.auth.principal import Scope as TokenScope
from app.core.errors import ConcurrencyLimited, DatabaseUnavailable, InvalidInput, NotFound, RateLimited
from app.core.services import Services
from app.export_links.records import Export
from app.export_links.schemas import ExportLink
from app.export_links.service import ExportLinkService
from app.rate_limits.service import WriteKind, WriteLimiter

router = Router(tags=["exports"])

# The errors of creating a link, besides those of its export.
LINK_PROBLEMS = (InvalidInput, RateLimited)
_SUFFIX = "/links"
# For the document: each export has its own columns.
_SOME_COLUMNS = ("starting_at", "ending_at", "model", "requests", "estimated_cost")

Code = Annotated[
    str,
    Path(
        pattern=r"^[A-Za-z0-9_-]{43}$",
        description="The code of the link.",
        examples=["EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-EXA"],
    ),
]


@router.get(
    "/exports/{organization_id}/{code}",
    response_class=Response,
    operation_id="openExportLink",
    summary="Download an export by its link",
    response_description="The file.",
    responses=csv_document(_SOME_COLUMNS)
    | problems(NotFound, ConcurrencyLimited, DatabaseUnavailable, 500, needs_token=False),
)
async def open_export_link(organization_id: OrganizationId, code: Code, services: AppServices) -> Response:
    """Send the file that the link is for, and use the link up. Requires no token: the code is one.

    The response is that of the export, errors included. 404 if the link was opened before or has expired. Only a GET
    opens a link, and a link that was opened is used up even if its download fails.
    """
    return _ExportResponse(organization_id, await services[ExportLinkService].open(organization_id, code))


async def create_link(
    request: Request, caller: Caller, services: Services, scope: TokenScope, *, query: str = ""
) -> Response:
    """Create a link to the export whose path, with a suffix, is that of this request.

    Pass the query of the request only if the route has validated it: the link stores it. The scope is one that reads, so
    its token is not counted as a writing one: the link is.

    Raises:
        InvalidInput, RateLimited, DatabaseUnavailable
    """
    services[WriteLimiter].admit(caller.organization_id, WriteKind.WORK)
    export = Export(
        path=request.url.path.removesuffix(_SUFFIX),
        query=query,
        scope=scope,
        subject=caller.subject,
    )
    link = await services[ExportLinkService].create(caller.organization_id, export)
    return respond(ExportLink.of(caller.organization_id, link), status=201)


class _ExportResponse(Response):
    """Responds as the export does to a token whose only scope is that of the export."""

    def __init__(self, organization_id: str, export: Export) -> None:
        super().__init__()
        self._organization_id = organization_id
        self._export = export

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        export = self._export
        scope["state"]["principal"] = Principal(
            subject=export.subject,
            organization_id=self._organization_id,
            scopes=frozenset({export.scope}),
        )
        request = {
            **scope,
            "path": export.path,
            "raw_path": export.path.encode(),
            "query_string": export.query.encode(),
            "path_params": {},
        }
        await scope["app"].router(request, receive, send)
