"""Around every request, from outside in: context, authentication, body limits. Plain ASGI, for speed.

`RequestContext` gives the id, the headers of every answer, the access log, metrics and the span,
and turns what nobody caught into a 500 that tells nothing. `Authentication` lets nobody into /v1
without a token, before a byte of the body is read. `BodyLimits` counts while reading, and looks at the clock.
"""

import asyncio
import re
import time
import traceback
from collections.abc import Callable, Iterable

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.problems import http_problem, problem_response
from app.auth.authenticator import Authenticator, TokenRefused
from app.auth.principal import Principal
from app.core.clock import new_id
from app.core.errors import ByokError, NotFound
from app.observability.metrics import REQUEST_SECONDS, REQUESTS
from app.observability.tracing import server_span

JSON_LIMIT_BYTES = 1024 * 1024
USAGE_BATCH_LIMIT_BYTES = 16 * 1024 * 1024
BODY_SECONDS = 60

_USAGE_EVENTS = re.compile(r"/v1/organizations/[^/]+/usage-events")
_NDJSON = "application/x-ndjson"

_PRIVATE = "/v1"
_ORGANIZATIONS = "/v1/organizations/"
SECURITY_HEADERS: tuple[tuple[str, str], ...] = (
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Strict-Transport-Security", "max-age=63072000; includeSubDomains"),
)
_RAW_SECURITY_HEADERS = [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS]
_NO_STORE = (b"cache-control", b"no-store")

log = structlog.get_logger("byok.access")


def is_private(path: str) -> bool:
    """Whether a path needs a token. Everything under /v1 does, known or not."""
    return path == _PRIVATE or path.startswith(f"{_PRIVATE}/")


class RequestContext:
    """The outermost layer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Always ours: an id chosen by the client could carry anything into logs and answers.
        request_id = f"req_{new_id().hex}"
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        started = time.perf_counter()
        added = [(b"x-request-id", request_id.encode()), *_RAW_SECURITY_HEADERS]
        if is_private(scope["path"]):
            added.append(_NO_STORE)
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        with server_span(Headers(scope=scope).get("traceparent")) as span:
            try:
                await self._app(scope, receive, send_with_headers)
            except Exception as error:  # noqa: BLE001  # nothing may go further: servers print what they get
                log.error("unhandled", error=type(error).__name__, where=_where(error))  # noqa: TRY400
                if status == 0:
                    await http_problem(request_id, 500)(scope, receive, send_with_headers)
            route = _route(scope)
            if span is not None:
                span.update_name(f"{_method(scope)} {route}")
                span.set_attributes(
                    {"http.route": route, "http.response.status_code": status, "byok.request_id": request_id}
                )
        seconds = time.perf_counter() - started
        REQUESTS.labels(_method(scope), route, str(status)).inc()
        REQUEST_SECONDS.labels(_method(scope), route).observe(seconds)
        principal = scope["state"].get("principal")
        log.info(
            "request",
            method=_method(scope),
            route=route,
            status=status,
            milliseconds=round(seconds * 1000, 2),
            subject=None if principal is None else principal.subject,
        )


class Authentication:
    """Puts the principal into the request's state, or answers 401."""

    def __init__(self, app: ASGIApp, authenticator: Callable[[], Authenticator]) -> None:
        self._app = app
        self._authenticator = authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and is_private(scope["path"]):
            sent = [value for name, value in scope["headers"] if name == b"authorization"]
            try:
                # Two headers are as bad as none: somebody in between may have read the other one.
                authorization = sent[0].decode("latin-1") if len(sent) == 1 else None
                principal = await self._authenticator().authenticate(authorization)
                _refuse_other_organizations(principal, scope["path"])
                scope["state"]["principal"] = principal
            except TokenRefused as error:
                log.info("token_refused", reason=error.reason)
                await problem_response(scope["state"]["request_id"], error)(scope, receive, send)
                return
            except ByokError as error:
                await problem_response(scope["state"]["request_id"], error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _refuse_other_organizations(principal: Principal, path: str) -> None:
    """Before the body is read and scopes are looked at, so that nothing of another organization can be told apart."""
    if not principal.is_service and path.startswith(_ORGANIZATIONS):
        named = path.removeprefix(_ORGANIZATIONS).partition("/")[0]
        if named != principal.organization_id:
            raise NotFound


class BodyLimits:
    """Refuses bodies that are too large or take too long, while they are read, and bodies that are not JSON.

    Usage events come in larger batches, and as NDJSON without an end: their reader bounds each line itself.
    """

    def __init__(
        self, app: ASGIApp, json_limit_bytes: int = JSON_LIMIT_BYTES, body_seconds: float = BODY_SECONDS
    ) -> None:
        self._app = app
        self._limit = json_limit_bytes
        self._seconds = body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in {"GET", "HEAD", "OPTIONS"}:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        takes_batches = scope["method"] == "POST" and _USAGE_EVENTS.fullmatch(scope["path"]) is not None
        if takes_batches and _media_type(headers) == _NDJSON:
            await self._app(scope, receive, send)
            return
        limit = USAGE_BATCH_LIMIT_BYTES if takes_batches else self._limit
        refusal = _body_refusal(headers, limit)
        if refusal is not None:
            await http_problem(scope["state"]["request_id"], refusal)(scope, receive, send)
            return
        seen = 0
        deadline: float | None = asyncio.get_running_loop().time() + self._seconds

        async def receive_counted() -> Message:
            nonlocal seen, deadline
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, headers={"Connection": "close"}) from None
            if not message.get("more_body", False):
                deadline = None  # what is awaited from here on is the client's leaving
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > limit:
                    raise HTTPException(413)
                if b"\0" in message.get("body", b""):
                    raise HTTPException(400)  # UTF-16 or UTF-32, which the parser would guess; JSON is UTF-8
            return message

        await self._app(scope, receive_counted, send)


def _body_refusal(headers: Headers, limit: int) -> int | None:
    length = headers.get("content-length", "0")
    if length.isdigit() and int(length) > limit:
        return 413
    if length == "0" and "transfer-encoding" not in headers:
        return None
    media_type = _media_type(headers)
    is_json = media_type == "application/json" or (
        media_type.startswith("application/") and media_type.endswith("+json")
    )
    return None if is_json else 415


def _media_type(headers: Headers) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


class Cors:
    """Answers browsers of the allowed origins; nobody, by default."""

    _METHODS = "GET, POST, PUT, PATCH, DELETE"
    _HEADERS = "Authorization, Content-Type, Idempotency-Key, If-Match, Prefer, traceparent"
    _EXPOSED = "ETag, Location, X-Request-Id, Retry-After, Idempotency-Replayed, Preference-Applied"

    def __init__(self, app: ASGIApp, allowed_origins: Iterable[str]) -> None:
        self._app = app
        self._allowed = frozenset(allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = Headers(scope=scope).get("origin") if scope["type"] == "http" else None
        if origin is None or origin not in self._allowed:
            await self._app(scope, receive, send)
            return

        async def send_with_cors(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Access-Control-Allow-Origin"] = origin
                headers["Access-Control-Expose-Headers"] = self._EXPOSED
                headers.add_vary_header("Origin")
            await send(message)

        if scope["method"] == "OPTIONS" and "access-control-request-method" in Headers(scope=scope):
            preflight: list[tuple[bytes, bytes]] = [
                (b"access-control-allow-methods", self._METHODS.encode()),
                (b"access-control-allow-headers", self._HEADERS.encode()),
                (b"access-control-max-age", b"600"),
            ]
            await send_with_cors({"type": "http.response.start", "status": 204, "headers": preflight})
            await send({"type": "http.response.body", "body": b""})
            return
        await self._app(scope, receive, send_with_cors)


def _route(scope: Scope) -> str:
    """The template of the route, never the path: paths hold what clients type."""
    route = scope.get("route")
    return getattr(route, "path_format", None) or getattr(route, "path", None) or "unknown"


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _method(scope: Scope) -> str:
    """A method of the closed set: others are free text."""
    return scope["method"] if scope["method"] in _METHODS else "OTHER"


def _where(error: BaseException) -> list[str]:
    """Where it happened, without what was said: messages and locals may hold anything."""
    frames = traceback.extract_tb(error.__traceback__)
    return [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames[-8:]]
