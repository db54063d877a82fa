"""Limits the body of a request: its size, its time, its memory and the number of its values. Plain ASGI, for speed."""

import asyncio
import re

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.long_bodies import MAX_COMMAS, shorten
from app.api.paths import organization_of
from app.api.problems import RejectedBody, http_problem
from app.auth.principal import Principal
from app.core.errors import InvalidInput
from app.core.memory_budget import MemoryBudget

JSON_LIMIT_BYTES = 1024 * 1024
USAGE_BATCH_LIMIT_BYTES = 16 * 1024 * 1024
# Far more arrays and objects than any valid body has. Each takes 50 times the memory of its two bytes.
MAX_CONTAINERS = 10_000
BODY_SECONDS = 60
# What the bodies of all requests in progress may hold, and those of one organization.
BODIES_BYTES = 256 * 1024 * 1024
BODIES_BYTES_PER_ORGANIZATION = 64 * 1024 * 1024

_USAGE_EVENTS = re.compile(r"/v1/organizations/[^/]+/usage-events")
_NDJSON = "application/x-ndjson"


class BodyLimits:
    """Rejects bodies that are not JSON or are encoded, and, while reading, bodies that are too large or take too long.

    Batches of usage events have a higher limit. NDJSON streams of usage events have no limit: their reader limits each
    line. A body counts towards its organization's memory until the response is complete.
    """

    def __init__(
        self,
        app: ASGIApp,
        json_limit_bytes: int = JSON_LIMIT_BYTES,
        body_seconds: float = BODY_SECONDS,
        bodies_bytes: int = BODIES_BYTES,
        bodies_bytes_per_organization: int = BODIES_BYTES_PER_ORGANIZATION,
    ) -> None:
        self._app = app
        self._limit = json_limit_bytes
        self._seconds = body_seconds
        self._memory = MemoryBudget(bodies_bytes, per_organization=bodies_bytes_per_organization)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in {"GET", "HEAD", "OPTIONS"}:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if _has_body(headers) and _is_encoded(headers):
            # A stream of encoded lines would be accepted with every line rejected, and its events would be lost.
            response = http_problem(
                scope["state"]["request_id"], 415, headers={"Accept-Encoding": "identity"}
            )
            await response(scope, receive, send)
            return
        is_ingestion = scope["method"] == "POST" and _USAGE_EVENTS.fullmatch(scope["path"]) is not None
        if is_ingestion and _media_type(headers) == _NDJSON:
            await self._app(scope, receive, send)
            return
        limit = USAGE_BATCH_LIMIT_BYTES if is_ingestion else self._limit
        status = _rejection_status(headers, limit)
        if status is not None:
            await http_problem(scope["state"]["request_id"], status)(scope, receive, send)
            return
        memory = _HeldMemory(self._memory, _payer(scope))
        # The reader of usage events limits what is in them differently.
        limited = _LimitedBody(receive, memory, limit, self._seconds, counts_values=not is_ingestion)
        try:
            await self._app(scope, limited.receive, send)
        finally:
            memory.release()


def _payer(scope: Scope) -> str:
    """The organization whose memory a body uses: that of the path, or of the token."""
    organization_id = organization_of(scope["path"])
    if organization_id is not None:
        return organization_id
    principal: Principal | None = scope["state"].get("principal")
    return "" if principal is None else principal.organization_id  # the page's paths need no token


class _HeldMemory:
    """The bytes that one request holds."""

    def __init__(self, budget: MemoryBudget, organization_id: str) -> None:
        self._budget = budget
        self._organization_id = organization_id
        self._held = 0

    def try_hold(self, more: int) -> bool:
        if not self._budget.try_hold(self._organization_id, more):
            return False
        self._held += more
        return True

    def release(self) -> None:
        self._budget.release(self._organization_id, self._held)


class _LimitedBody:
    """A body whose `receive` raises when it is too large, takes longer than `seconds`, or has too many values."""

    def __init__(
        self,
        receive: Receive,
        memory: _HeldMemory,
        limit_bytes: int,
        seconds: float,
        *,
        counts_values: bool,
    ) -> None:
        self._receive = receive
        self._memory = memory
        self._limit = limit_bytes
        self._counts_values = counts_values
        self._received = self._containers = self._commas = 0
        # All parts, and the bytes of those that were passed on: after too many commas, the rest waits for the end.
        self._parts: list[bytes] = []
        self._passed = 0
        self._deadline: float | None = asyncio.get_running_loop().time() + seconds

    async def receive(self) -> Message:
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, headers={"Connection": "close"}) from None
        if not message.get("more_body", False):
            self._deadline = None  # after the body, the only message to wait for is the disconnect
        if message["type"] == "http.request":
            self._count(message.get("body", b""))
            if self._counts_values:
                return await self._without_excess(message)
        return message

    async def _without_excess(self, message: Message) -> Message:
        """Return the message without values that no valid body has."""
        part = message.get("body", b"")
        self._parts.append(part)
        if self._commas <= MAX_COMMAS:
            self._passed += len(part)
            return message
        if message.get("more_body", False):
            return {**message, "body": b""}
        try:
            shortened = await shorten(b"".join(self._parts))
        except InvalidInput as error:
            raise RejectedBody(error) from None
        return {**message, "body": shortened[self._passed :]}

    def _count(self, part: bytes) -> None:
        self._received += len(part)
        if self._received > self._limit:
            raise HTTPException(413)
        if not self._memory.try_hold(len(part)):
            raise HTTPException(429, headers={"Connection": "close", "Retry-After": "2"})
        if b"\0" in part:
            raise HTTPException(400)  # UTF-16 or UTF-32, which the parser would detect; JSON is UTF-8
        if self._counts_values:
            self._containers += part.count(b"[") + part.count(b"{")
            if self._containers > MAX_CONTAINERS:
                raise HTTPException(400)
            self._commas += part.count(b",")


def _rejection_status(headers: Headers, limit: int) -> int | None:
    """The status with which to reject a request because of its headers, or None."""
    length = headers.get("content-length", "0")
    if length.isdigit() and int(length) > limit:
        return 413
    if not _has_body(headers):
        return None
    media_type = _media_type(headers)
    is_json = media_type == "application/json" or (
        media_type.startswith("application/") and media_type.endswith("+json")
    )
    return None if is_json else 415


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def _is_encoded(headers: Headers) -> bool:
    """Whether the body has a content coding. Bodies are never decoded: a small one could become very large."""
    return any(
        coding.strip().lower() not in {"", "identity"} for coding in headers.getlist("content-encoding")
    )


def _media_type(headers: Headers) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()
