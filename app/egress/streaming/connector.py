"""aiohttp's connector with bounds on what a peer may send before a response, and TCP keep-alive."""

import asyncio
import functools
import socket
import ssl
from typing import Any, Final

from aiohttp import TCPConnector
from aiohttp.abc import AbstractResolver
from aiohttp.client_proto import ResponseHandler

from app.egress.exceptions import ResponseTooLarge
from app.egress.network import is_readable
from app.egress.response_head import ResponseHeadLimit
from app.egress.streaming.connections import ConnectionCount, keep_alive

MAX_HEAD_BYTES: Final = 32 * 1024
MAX_INFORMATIONAL: Final = 8


def streaming_connector(
    tls: ssl.SSLContext,
    count: ConnectionCount,
    *,
    reuse_seconds: float,
    resolver: AbstractResolver | None = None,
) -> TCPConnector:
    """Create a connector. It must be created inside the event loop.

    Args:
        tls: verifies the certificate by the host's name.
        count: follows the open connections.
        reuse_seconds: how long an idle connection may be used again. A request fails if the peer closes it meanwhile.
        resolver: None resolves by the system, for the operator's endpoint.
    """
    return _StreamingConnector(
        count,
        ssl=tls,
        resolver=resolver,
        use_dns_cache=False,
        limit=0,  # the relay's slots bound the connections
        keepalive_timeout=reuse_seconds,
        socket_factory=_socket_with_keep_alive,
    )


def _socket_with_keep_alive(address: Any) -> socket.socket:
    family, kind, protocol, _, _ = address
    connection = socket.socket(family=family, type=kind, proto=protocol)
    keep_alive(connection)
    return connection


class _StreamingConnector(TCPConnector):
    def __init__(self, count: ConnectionCount, **options: Any) -> None:
        super().__init__(**options)
        # aiohttp has no public option for the protocol of a connection. A test fails if this attribute goes away.
        self._factory = functools.partial(_handler, self._loop, count)


class _BoundedResponseHandler(ResponseHandler):
    """One connection. aiohttp bounds a line and the number of fields, but neither all heads nor the 1xx responses."""

    def __init__(self, loop: asyncio.AbstractEventLoop, count: ConnectionCount) -> None:
        super().__init__(loop)
        self._count = count
        self._head: ResponseHeadLimit | None = None
        self._was_paused = False  # within this response
        self._read_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._count.open += 1
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._count.open -= 1
        super().connection_lost(exc)

    def is_connected(self) -> bool:
        """Called before an idle connection is reused. The peer may have closed it, although no task has run since."""
        transport = self.transport
        return (
            transport is not None
            and not transport.is_closing()
            and not is_readable(transport.get_extra_info("socket"))
        )

    def close(self) -> None:
        """Close at once. A graceful close would first wait until the peer took what is still to be written."""
        self.abort()

    def set_response_params(self, **params: Any) -> None:
        """Called before each request: what arrives from now on belongs to its response."""
        self._head = ResponseHeadLimit(max_bytes=MAX_HEAD_BYTES, max_informational=MAX_INFORMATIONAL)
        self._was_paused = False  # aiohttp makes a new parser
        self._drop_timeout()  # bytes that no response owned may have set it
        super().set_response_params(**params)

    def pause_reading(self) -> None:
        self._was_paused = True
        super().pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002  # as aiohttp's
        """Called after each read of the body, although reading is seldom paused.

        The parser may pause later than the protocol, and then keeps what follows until this is called again. So after
        the first pause, every call counts.
        """
        if self._was_paused:
            super().resume_reading(resume_parser)

    def _reschedule_timeout(self) -> None:
        """Called for each read. aiohttp replaces the timer then, which takes a tenth of the time of a read."""
        self._read_at = self._loop.time()
        if self._read_timeout_handle is None:
            super()._reschedule_timeout()

    def _on_read_timeout(self) -> None:
        """The timer has ended, and is set again if there was a read meanwhile."""
        self._read_timeout_handle = None
        left = self._read_at + (self._read_timeout or 0) - self._loop.time()
        if left > 0:
            self._read_timeout_handle = self._loop.call_later(left, self._on_read_timeout)
        else:
            super()._on_read_timeout()

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            try:
                self._head.receive(data)
            except ResponseTooLarge as error:
                self._head = None
                self.set_exception(error)
                self.abort()
                return
        super().data_received(data)


def _handler(loop: asyncio.AbstractEventLoop, count: ConnectionCount) -> ResponseHandler:
    return _BoundedResponseHandler(loop, count)
