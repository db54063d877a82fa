"""A connection, until a request is complete enough to be handed to the application.

uvicorn's protocol on httptools bounds neither the size of a request's head (the request line and the
header fields) nor the time it takes, and nobody has shown a token yet. Here both are bounded.
"""

import sys
from asyncio import TimerHandle, Transport
from functools import partial
from http import HTTPStatus
from typing import Any, Literal

from httptools import HttpParserInvalidMethodError
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from app.api.middleware import SECURITY_HEADERS
from app.api.problems import METHODS, http_problem, malformed_request
from app.core.clock import new_id
from app.observability.metrics import REQUESTS

HEAD_LIMIT_BYTES = 32 * 1024
HEAD_LIMIT_FIELDS = 100
# Closed at once, while more comes in, a connection is reset, and clients that still send lose the answer.
_LINGER_SECONDS = 5
_LINE_BYTES = len(b": \r\n")


class _HeadTooLargeError(Exception):
    """Ends the parser's work; it reports it as it does its own errors."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """Answers 431 to a head that is too large, 408 to one that does not end, and closes.

    The parser keeps a line that has no end yet to itself, so what it was given is counted. A head that
    begins in the middle of a read is counted from the next one on: a connection holds the limit and one
    read (256 KiB) at most.
    """

    head_seconds: float = 15

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._phase: Literal["idle", "head", "body"] = "idle"  # of the message under way
        self._read_bytes = 0
        self._held_bytes = 0  # received since the last part that the parser gave out whole
        self._is_too_large = False
        self._is_refused = False
        self._head_timer: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._unset_head_timer()

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        self._read_bytes = len(data)
        self._held_bytes += self._read_bytes
        super().data_received(data)
        if self._has_ended():
            return
        if self._phase == "idle":
            self._held_bytes = 0  # nothing, or the empty lines that may precede a request
        elif self._held_bytes > HEAD_LIMIT_BYTES or len(self.headers) > HEAD_LIMIT_FIELDS:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            return
        self._watch()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._phase = "head"

    def on_headers_complete(self) -> None:
        if len(self.headers) > HEAD_LIMIT_FIELDS or self._is_large():
            self._is_too_large = True
            raise _HeadTooLargeError
        super().on_headers_complete()
        self._phase = "body"
        self._held_bytes = 0
        if self._head_timer is not None:
            self._unset_head_timer()
        # Trailers come the same way. They go nowhere: the application has judged the headers by then.
        self.headers = []

    def on_body(self, body: bytes) -> None:
        self._held_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._phase = "idle"
        self._held_bytes = 0

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # always the same
        """Whatever the parser does not take ends here."""
        if self._is_too_large:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif isinstance(sys.exception(), HttpParserInvalidMethodError):
            self._refuse(HTTPStatus.METHOD_NOT_ALLOWED)
        else:
            self._refuse(HTTPStatus.BAD_REQUEST)

    def _is_large(self) -> bool:
        """Whether the head that was just read is too large."""
        if self._read_bytes + self._held_bytes <= HEAD_LIMIT_BYTES:
            return False  # it cannot be: most need no counting
        fields = sum(len(name) + len(value) + _LINE_BYTES for name, value in self.headers)
        return len(self.url) + fields > HEAD_LIMIT_BYTES

    def _watch(self) -> None:
        """No connection waits without a bound for what its client has to send, bodies aside."""
        if self._phase == "head":
            if self._head_timer is None:
                self._head_timer = self.loop.call_later(self.head_seconds, self._on_head_timeout)
        elif self.timeout_keep_alive_task is None and self._is_answered():
            # uvicorn does so after an answer alone, and any byte ends it.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _on_head_timeout(self) -> None:
        self._head_timer = None
        if self.transport.is_closing():
            return
        if self._may_answer():
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        else:
            self._watch()  # the request before it is still being answered

    def _unset_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _has_ended(self) -> bool:
        return self._is_refused or self.transport.is_closing()

    def _is_answered(self) -> bool:
        """Whether no request waits for an answer. Before the first one there is no cycle."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def _may_answer(self) -> bool:
        """Whether what is written now is the answer to the message under way, and to no other."""
        if self._phase == "body":
            return not self.pipeline and not self.cycle.response_started
        return self._is_answered()

    def _refuse(self, status: HTTPStatus) -> None:
        """Say so, and nothing more; what still comes in is not looked at."""
        if not self._may_answer():
            self.transport.close()
            return
        if self._phase == "body":
            self.cycle.disconnected = True  # the application has nobody to answer any more
            self.cycle.message_event.set()
        self._is_refused = True
        self._unset_keepalive_if_required()
        self._unset_head_timer()
        request_id = f"req_{new_id().hex}"
        headers = {"Connection": "close", "X-Request-Id": request_id, **dict(SECURITY_HEADERS)}
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = ", ".join(METHODS)
        make = malformed_request if status is HTTPStatus.BAD_REQUEST else partial(http_problem, status=status)
        response = make(request_id, headers=headers)
        fields = (b"%b: %b\r\n" % field for field in response.raw_headers)
        self.transport.write(b"".join((STATUS_LINE[status], *fields, b"\r\n", response.body)))
        REQUESTS.labels("OTHER", "unknown", str(status.value)).inc()
        self.transport.write_eof()
        self._head_timer = self.loop.call_later(_LINGER_SECONDS, self.transport.close)
