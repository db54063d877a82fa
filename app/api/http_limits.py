"""Limits the size of a request's head, the time it takes to arrive, and how slowly a client may read its response.

The head is the request line and the header fields. uvicorn's protocol for httptools limits neither, and at this point no
client is authenticated. This module overrides internals of that protocol, so pyproject.toml pins uvicorn's minor version.
"""

import sys
from asyncio import TimerHandle, Transport
from functools import partial
from http import HTTPStatus
from typing import Any, Literal
from weakref import ref

from httptools import HttpParserInvalidMethodError
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from app.api.connections import OpenConnections, UnreadResponses
from app.api.middleware import ABORT, IS_WRITE_PAUSED, READ_SECONDS, SECURITY_HEADERS
from app.api.problems import METHODS, http_problem, malformed_request
from app.auth.principal import Principal
from app.core.clock import new_request_id
from app.observability.metrics import CONNECTIONS_CLOSED, REQUESTS

HEAD_LIMIT_BYTES = 32 * 1024
HEAD_LIMIT_FIELDS = 100
READ_MINIMUM_BYTES = 16 * 1024
# How long a rejected connection stays open. If it were closed while data arrives, TCP would reset it, and a client that
# is still sending would lose the response.
_LINGER_SECONDS = 5
_LINE_BYTES = len(b": \r\n")


class _CodingRefusedError(Exception):
    """Stops the parser because of a transfer coding besides `chunked`."""


class _HeadTooLargeError(Exception):
    """Raised inside the parser to stop it. The parser reports it like its own errors."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """Responds with 431 to a head that is too large and with 408 to one that arrives too slowly, then closes.

    The parser does not report a line before it is complete, so the received bytes are counted. A head that begins in the
    middle of a read is counted from the next read on. So a connection buffers at most the limit and one read (256 KiB).
    """

    head_seconds: float = 15
    # How long a connection may stay open without a single byte.
    first_byte_seconds: float = 10
    # In this time, a client must read at least READ_MINIMUM_BYTES of a response that is waiting for it.
    read_seconds: float = 30
    # Shared by all connections of a server. None: without a limit.
    open_connections: OpenConnections | None = None
    unread_responses: UnreadResponses | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._phase: Literal["idle", "head", "body"] = "idle"  # of the current message
        self._read_bytes = 0
        self._buffered_bytes = 0  # received since the parser last reported a complete part
        self._is_too_large = False
        self._is_rejected = False
        self._is_reuse_over = False
        self._head_timer: TimerHandle | None = None
        self._read_timer: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        if self.open_connections is not None and not self.open_connections.add(transport):
            self._is_rejected = True
            transport.abort()
            return
        self.timeout_keep_alive_task = self.loop.call_later(
            min(self.first_byte_seconds, self.timeout_keep_alive), self.timeout_keep_alive_handler
        )

    def connection_lost(self, exc: Exception | None) -> None:
        if self.open_connections is not None:
            self.open_connections.discard(self.transport)
        if self.unread_responses is not None:
            self.unread_responses.discard(self.transport)
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._unset_head_timer()
        self._unset_read_timer()

    def data_received(self, data: bytes) -> None:
        if self._is_rejected:
            return
        self._read_bytes = len(data)
        self._buffered_bytes += self._read_bytes
        super().data_received(data)
        if self._has_ended():
            return
        if self._phase == "idle":
            self._buffered_bytes = 0  # no data, or the empty lines that may precede a request
        elif self._buffered_bytes > HEAD_LIMIT_BYTES or len(self.headers) > HEAD_LIMIT_FIELDS:
            self._reject(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            return
        self._start_timer()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._phase = "head"

    def on_headers_complete(self) -> None:
        if len(self.headers) > HEAD_LIMIT_FIELDS or self._is_large():
            self._is_too_large = True
            raise _HeadTooLargeError
        if any(name == b"transfer-encoding" and value.lower() != b"chunked" for name, value in self.headers):
            # The parser accepts other codings before `chunked`. A proxy may read the end of the body differently.
            raise _CodingRefusedError
        if self.open_connections is not None:
            self.open_connections.begin_request(self.transport)
        super().on_headers_complete()
        if self._is_reuse_over:
            self.cycle.keep_alive = False
        # Weak references, because cycle and protocol have the scope. With a reference cycle, all that a request holds would
        # stay until a garbage collection, which blocks the event loop.
        extensions: dict[str, Any] = {
            ABORT: partial(_abort, ref(self.cycle)),
            READ_SECONDS: partial(_set_read_seconds, ref(self)),
            IS_WRITE_PAUSED: partial(_is_write_paused, ref(self)),
        }
        self.scope["extensions"] = extensions
        self._phase = "body"
        self._buffered_bytes = 0
        if self._head_timer is not None:
            self._unset_head_timer()
        # The parser reports trailers as headers too. They are ignored: the application has already read the headers.
        self.headers = []

    def end_reuse(self) -> None:
        """Send `Connection: close` with the next response. An idle connection stays open until then."""
        self._is_reuse_over = True
        if not self._is_idle() and not self.cycle.response_started:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._buffered_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._phase = "idle"
        self._buffered_bytes = 0

    def on_response_complete(self) -> None:
        self.read_seconds = type(self).read_seconds
        super().on_response_complete()
        if self.open_connections is not None and self._is_idle():
            self.open_connections.end_request(self.transport)

    def pause_writing(self) -> None:
        super().pause_writing()
        unread = self.transport.get_write_buffer_size()
        self._require_reading(unread)
        if self.unread_responses is not None:
            self.unread_responses.add(self.transport, self._organization(), unread)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unset_read_timer()
        if self.unread_responses is not None:
            self.unread_responses.discard(self.transport)

    def _organization(self) -> str:
        """The organization of the token of the current request."""
        principal: Principal | None = self.scope.get("state", {}).get("principal")
        return "" if principal is None else principal.organization_id

    def _require_reading(self, unread_bytes: int) -> None:
        """Close the connection of a client that does not read its response at a minimum rate."""
        self._unset_read_timer()
        self._read_timer = self.loop.call_later(self.read_seconds, self._on_read_timeout, unread_bytes)

    def _on_read_timeout(self, unread_before: int) -> None:
        unread = self.transport.get_write_buffer_size()
        if unread_before - unread < READ_MINIMUM_BYTES:
            CONNECTIONS_CLOSED.labels("unread").inc()
            self.transport.abort()
        else:
            self._require_reading(unread)

    def _unset_read_timer(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # the text is constant
        """Called by uvicorn for every request that the parser rejects."""
        if self._is_too_large:
            self._reject(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif isinstance(sys.exception(), HttpParserInvalidMethodError):
            self._reject(HTTPStatus.METHOD_NOT_ALLOWED)
        else:
            self._reject(HTTPStatus.BAD_REQUEST)

    def _is_large(self) -> bool:
        """Whether the head that the parser just completed is too large."""
        if self._read_bytes + self._buffered_bytes <= HEAD_LIMIT_BYTES:
            return False  # too few bytes arrived, so the fields of most requests need not be summed
        fields = sum(len(name) + len(value) + _LINE_BYTES for name, value in self.headers)
        return len(self.url) + fields > HEAD_LIMIT_BYTES

    def _start_timer(self) -> None:
        """Limit the time to wait for a head, or for the next request. Bodies are limited by the middleware."""
        if self._phase == "head":
            if self._head_timer is None:
                self._head_timer = self.loop.call_later(self.head_seconds, self._on_head_timeout)
        elif self.timeout_keep_alive_task is None and self._is_idle():
            # uvicorn starts this timer only after a response, and cancels it on any byte, also on an empty line.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _on_head_timeout(self) -> None:
        self._head_timer = None
        if self.transport.is_closing():
            return
        if self._may_respond():
            self._reject(HTTPStatus.REQUEST_TIMEOUT)
        else:
            self._start_timer()  # the response to the previous request is not complete yet

    def _unset_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _has_ended(self) -> bool:
        return self._is_rejected or self.transport.is_closing()

    def _is_idle(self) -> bool:
        """Whether all received requests have a complete response. `cycle` is unset before the first request."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def _may_respond(self) -> bool:
        """Whether a client would take a response that is written now as the response to the current message."""
        if self._phase == "body":
            return not self.pipeline and not self.cycle.response_started
        return self._is_idle()

    def _reject(self, status: HTTPStatus) -> None:
        """Respond with a problem and close the connection. Data that still arrives is ignored."""
        if not self._may_respond():
            self.transport.close()
            return
        if self._phase == "body":
            self.cycle.disconnected = True  # the application must not respond any more
            self.cycle.message_event.set()
        self._is_rejected = True
        self._unset_keepalive_if_required()
        self._unset_head_timer()
        request_id = new_request_id()
        # The path may be unknown, so all of these responses are as private as those of /v1. 405 may be cached otherwise.
        headers = {"Connection": "close", "X-Request-Id": request_id, **dict(SECURITY_HEADERS)}
        headers["Cache-Control"] = "no-store"
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = ", ".join(METHODS)
        to_response = (
            malformed_request if status is HTTPStatus.BAD_REQUEST else partial(http_problem, status=status)
        )
        response = to_response(request_id, headers=headers)
        common = self.server_state.default_headers  # the date
        fields = (b"%b: %b\r\n" % field for field in (*common, *response.raw_headers))
        self.transport.write(b"".join((STATUS_LINE[status], *fields, b"\r\n", response.body)))
        REQUESTS.labels("OTHER", "unknown", str(status.value)).inc()
        self.transport.write_eof()
        self._head_timer = self.loop.call_later(_LINGER_SECONDS, self.transport.close)


def _abort(to_cycle: ref[RequestResponseCycle]) -> None:
    """Close the connection in the middle of a response. uvicorn logs nothing, as after a disconnect of the client."""
    cycle = to_cycle()
    if cycle is not None:
        cycle.disconnected = True
        cycle.transport.close()


def _set_read_seconds(to_protocol: ref[BoundedHttpProtocol], seconds: float) -> None:
    """Change the time for the response to the current request."""
    protocol = to_protocol()
    if protocol is not None:
        protocol.read_seconds = seconds


def _is_write_paused(to_protocol: ref[BoundedHttpProtocol]) -> bool:
    protocol = to_protocol()
    return protocol is not None and protocol.flow.write_paused
