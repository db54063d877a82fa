"""Middleware around every request, from outside in: context, CORS, authentication. Plain ASGI, for speed.

`RequestContext` sets the request id and the headers of every response, paces the body, writes the access log, metrics and
the span, and turns an unhandled exception into a 500 without details. `Authentication` rejects requests to /v1 without a
valid token before any byte of the body is read. Within them, `app.api.body_limits` limits the body.
"""

import time
import traceback
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache

import structlog
from prometheus_client import Counter, Histogram
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.paths import is_page, is_private, organization_of
from app.api.problems import http_problem, problem_response
from app.auth.authenticator import Authenticator, TokenRefused
from app.auth.principal import Principal
from app.core.clock import new_request_id
from app.core.errors import ByokError, NotFound
from app.core.event_loop import RequestInProgress, TimeSlice
from app.observability.metrics import REQUEST_SECONDS, REQUESTS
from app.observability.tracing import is_tracing, server_span

# The ASGI extension with which the server closes the connection of a request: `app.api.http_limits` provides it.
ABORT = "byok.abort"
# The extension that sets for how long a client may leave its response unread.
READ_SECONDS = "byok.read_seconds"
# The extension that returns whether the next part of a response has to wait until the client reads.
IS_WRITE_PAUSED = "byok.is_write_paused"

SECURITY_HEADERS: tuple[tuple[str, str], ...] = (
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Strict-Transport-Security", "max-age=63072000; includeSubDomains"),
)
# Links to exports, whose paths contain a code.
_EXPORTS = "/exports/"


def _raw(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers]


_RAW_SECURITY_HEADERS = _raw(SECURITY_HEADERS)
_NO_STORE = (b"cache-control", b"no-store")

log = structlog.get_logger("byok.access")


class ResponseTruncated(Exception):
    """The body cannot be completed after its first part was sent. `code` is that of the error that prevents it."""

    def __init__(self, code: str) -> None:
        super().__init__("the response is truncated")
        self.code = code


class RequestContext:
    """The outermost middleware: request id, response headers, access log, metrics, span, unhandled exceptions."""

    def __init__(self, app: ASGIApp, page_headers: Sequence[tuple[str, str]] | None = None) -> None:
        """`page_headers` replace the security headers of the billing page's paths; None: there is no page."""
        self._app = app
        self._page_headers = None if page_headers is None else _raw(page_headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # The id is never taken from the client, which could inject any text into logs and responses.
        request_id = new_request_id()
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        started = time.perf_counter()
        handle = self._handle_in_span if is_tracing() else self._handle
        status = await handle(request_id, scope, receive, send)
        _record(scope, status, seconds=time.perf_counter() - started)

    async def _handle(self, request_id: str, scope: Scope, receive: Receive, send: Send) -> int:
        """Run the application. Returns the status of the response."""
        security = _RAW_SECURITY_HEADERS
        if self._page_headers is not None and is_page(scope["path"]):
            security = self._page_headers
        added = [(b"x-request-id", request_id.encode()), *security]
        if is_private(scope["path"]) or scope["path"].startswith(_EXPORTS):
            added.append(_NO_STORE)
        status = 0
        in_progress = RequestInProgress()

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                in_progress.end()
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        try:
            await self._app(scope, _paced(receive), send_with_headers)
        except ResponseTruncated as error:
            log.warning("response_truncated", code=error.code)
            _abort(scope)
        except Exception as error:  # noqa: BLE001  # must not propagate: the server would print its message
            log.error("unhandled", error=type(error).__name__, where=_where(error))  # noqa: TRY400
            if status == 0:
                await http_problem(request_id, 500)(scope, receive, send_with_headers)
            else:
                _abort(scope)
        finally:
            in_progress.end()
        return status

    async def _handle_in_span(self, request_id: str, scope: Scope, receive: Receive, send: Send) -> int:
        with server_span(Headers(scope=scope).get("traceparent")) as span:
            status = await self._handle(request_id, scope, receive, send)
            route = _route(scope)
            span.update_name(f"{_method(scope)} {route}")
            span.set_attributes(
                {"http.route": route, "http.response.status_code": status, "byok.request_id": request_id}
            )
        return status


def _paced(receive: Receive) -> Receive:
    """Receive a body no faster than other long work goes on: the server's work for 16 MiB is not done in this task.

    The pause comes before the next part, so that no part waits uncounted.
    """
    time_slice = TimeSlice()
    time_slice.suspend()

    async def receive_paced() -> Message:
        time_slice.resume()
        await time_slice.pause_if_used()
        time_slice.suspend()
        message = await receive()
        time_slice.count_received(len(message.get("body", b"")))
        return message

    return receive_paced


def _abort(scope: Scope) -> None:
    """Close the connection, so that the client notices that the response is incomplete."""
    abort = scope.get("extensions", {}).get(ABORT)
    if abort is not None:
        abort()


def _record(scope: Scope, status: int, *, seconds: float) -> None:
    """Count the request in the metrics and write it to the access log."""
    method, route = _method(scope), _route(scope)
    requests, request_seconds = _metrics_of(method, route, status)
    requests.inc()
    request_seconds.observe(seconds)
    principal = scope["state"].get("principal")
    log.info(
        "request",
        method=method,
        route=route,
        status=status,
        milliseconds=round(seconds * 1000, 2),
        subject=None if principal is None else principal.subject,
    )


@cache
def _metrics_of(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    """The metrics of one kind of request. Finding them costs as much as updating them. All values are from closed sets."""
    return REQUESTS.labels(method, route, str(status)), REQUEST_SECONDS.labels(method, route)


class Authentication:
    """Verifies the token of a request to /v1 and puts the principal into the request's state, or responds with 401."""

    def __init__(self, app: ASGIApp, authenticator: Callable[[], Authenticator]) -> None:
        self._app = app
        self._authenticator = authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and is_private(scope["path"]):
            sent = [value for name, value in scope["headers"] if name == b"authorization"]
            try:
                # Two headers count as none, because a proxy may have checked the other one.
                authorization = sent[0].decode("latin-1") if len(sent) == 1 else None
                principal = await self._authenticator().authenticate(authorization)
                _require_own_organization(principal, scope["path"])
                scope["state"]["principal"] = principal
            except TokenRefused as error:
                log.info("token_refused", reason=error.reason)
                await problem_response(scope["state"]["request_id"], error)(scope, receive, send)
                return
            except ByokError as error:
                await problem_response(scope["state"]["request_id"], error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _require_own_organization(principal: Principal, path: str) -> None:
    """Raise NotFound for a path of another organization.

    This happens before scopes are checked and the body is read, so that all paths of other organizations behave alike.
    """
    organization_id = organization_of(path)
    if not principal.is_service and organization_id not in {None, principal.organization_id}:
        raise NotFound


class Cors(CORSMiddleware):
    """Starlette's CORS with the API's methods and headers. No origin is allowed by default, and never credentials.

    A request from an origin that is not allowed is handled as if it had no Origin. Every preflight of an allowed origin
    gets a 204; the browser compares the lists itself. Starlette would respond with 400 and a text, but errors of this
    API are problem+json.
    """

    def __init__(self, app: ASGIApp, allow_origins: Collection[str]) -> None:
        super().__init__(
            app,
            allow_origins=allow_origins,
            allow_methods=("GET", "POST", "PUT", "PATCH", "DELETE"),
            allow_headers=(
                "Authorization",
                "Content-Type",
                "Idempotency-Key",
                "If-Match",
                "Prefer",
                "traceparent",
            ),
            expose_headers=(
                "ETag",
                "Location",
                "X-Request-Id",
                "Retry-After",
                "Idempotency-Replayed",
                "Preference-Applied",
                "Content-Disposition",
                "Data-As-Of",
                "WWW-Authenticate",
            ),
            max_age=600,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _has_origin(scope) or not self.is_allowed_origin(Headers(scope=scope)["origin"]):
            await self.app(scope, receive, send)
            return
        await super().__call__(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        headers = self.preflight_headers | {"Access-Control-Allow-Origin": request_headers["origin"]}
        return Response(status_code=204, headers=headers)


def _has_origin(scope: Scope) -> bool:
    return scope["type"] == "http" and any(name == b"origin" for name, _ in scope["headers"])


def _route(scope: Scope) -> str:
    """The template of the route. Never the path, because clients may put any text into it."""
    route = scope.get("route")
    return getattr(route, "path_format", None) or getattr(route, "path", None) or "unknown"


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _method(scope: Scope) -> str:
    """A known method, or OTHER: clients may send any text as the method."""
    return scope["method"] if scope["method"] in _METHODS else "OTHER"


def _where(error: BaseException) -> list[str]:
    """The last frames of the traceback, without the message and local variables, which may contain secrets."""
    frames = traceback.extract_tb(error.__traceback__)
    return [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames[-8:]]
