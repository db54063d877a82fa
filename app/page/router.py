"""HTTP routes of the billing page. They are not part of the API, so the OpenAPI document leaves them out."""

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from fastapi import Request, Response

from app.api.docs_page import PAGE_METHODS
from app.api.paths import PAGE_PREFIX
from app.api.routing import Router
from app.api.schemas import RequestModel
from app.core.errors import NotFound, SignInRefused
from app.core.loopback import is_loopback
from app.page.document import PageConfig, render, render_callback
from app.page.files import PageFile, preloaded, read_files
from app.page.headers import page_headers
from app.page.sign_in import SignIn

_HTML = "text/html; charset=utf-8"
_NO_STORE = {"Cache-Control": "no-store"}


class SignInCode(RequestModel):
    """The code of a sign-in link."""

    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BillingPage:
    """The page as it is served. `sign_in` is absent with an external issuer.

    Attributes:
        hosts: the host names under which development may sign in, besides loopback addresses.
    """

    config: PageConfig
    sign_in: SignIn | None = None
    hosts: frozenset[str] = frozenset()

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        issuer = self.config.issuer if self.config.client_id else None
        parts = urlsplit(issuer) if issuer else None
        return page_headers(
            issuer_origin=f"{parts.scheme}://{parts.netloc}" if parts else None,
            frame_ancestors=self.config.frame_ancestors,
        )


def page_router(page: BillingPage) -> Router:
    """The routes of the page, which serve from memory."""
    router = Router(prefix=PAGE_PREFIX, include_in_schema=False)
    files = read_files()
    document = PageFile.of(render(page.config, preloaded(files)), _HTML)
    callback = PageFile.of(render_callback(), _HTML)

    @router.api_route("", methods=PAGE_METHODS)
    async def show(request: Request) -> Response:
        return _respond(request, document, _NO_STORE)

    @router.api_route("/callback", methods=PAGE_METHODS)
    async def show_callback(request: Request) -> Response:
        return _respond(request, callback, _NO_STORE)

    @router.api_route("/{name:path}", methods=PAGE_METHODS)
    async def show_file(request: Request, name: str) -> Response:
        if (file := files.get(name)) is None:
            raise NotFound
        return _respond(request, file, {"Cache-Control": "no-cache", "ETag": f'"{file.etag}"'})

    if page.sign_in is not None:
        router.add_api_route("/sign-in", _sign_in(page, page.sign_in), methods=["POST"])
    return router


def _respond(request: Request, file: PageFile, headers: dict[str, str]) -> Response:
    headers = {**headers, "Vary": "Accept-Encoding"}
    if "ETag" in headers and headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(
            file.compressed, media_type=file.media_type, headers={**headers, "Content-Encoding": "gzip"}
        )
    return Response(file.content, media_type=file.media_type, headers=headers)


def _sign_in(page: BillingPage, sign_in: SignIn) -> Callable[..., object]:
    async def redeem(request: Request, body: SignInCode) -> Response:
        """Exchange a code for a token. Only the page itself may ask, under a name of this machine.

        A browser sets `Sec-Fetch-Site` and no script can change it. The host name stops a foreign name that points to
        a loopback address (DNS rebinding).
        """
        host = _host_of(request)
        is_known = is_loopback(host) or host in page.hosts
        if not is_known or request.headers.get("sec-fetch-site") != "same-origin":
            raise SignInRefused
        return _token_response(sign_in.redeem(body.code))

    return redeem


def _host_of(request: Request) -> str:
    """The host name that the client sent; empty if it is malformed."""
    try:
        return urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""


def _token_response(token: str) -> Response:
    # Built by hand: no response model has a field for a token.
    return Response(f'{{"access_token":"{token}"}}', media_type="application/json", headers=_NO_STORE)
