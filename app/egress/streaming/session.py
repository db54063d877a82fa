"""aiohttp's session for the relay: it keeps neither the headers nor the body of a request once they are written."""

import ssl
from dataclasses import dataclass
from typing import Any, Final, Protocol

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload
from multidict import CIMultiDict, CIMultiDictProxy

from app.egress.resolver import AddressGuard
from app.egress.streaming.connections import ConnectionCount, Route
from app.egress.streaming.connector import streaming_connector
from app.egress.streaming.resolver import PinnedResolver

# aiohttp pauses reading at twice this.
_BUFFERED_BYTES: Final = 32 * 1024
_WRITE_BYTES: Final = 64 * 1024
_REUSE_SECONDS: Final = 15.0
# Gateways on uvicorn or Node close idle connections after 5 s.
_CUSTOM_REUSE_SECONDS: Final = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """The session for the operator's endpoint, and the one for those of customers, whose addresses are validated."""

    operator: aiohttp.ClientSession
    custom: aiohttp.ClientSession

    async def close(self) -> None:
        await self.custom.close()
        await self.operator.close()


class TracedRequest(Protocol):
    """The request that a call passes as `trace_request_ctx`."""

    def keep_for_removal(self, prepared: CIMultiDict[str]) -> None:
        """Remember aiohttp's copy of the headers."""

    def sent(self) -> None:
        """Called directly before the head is written."""


def open_sessions(
    guard: AddressGuard,
    count: ConnectionCount,
    *,
    tls: ssl.SSLContext,
    connect_seconds: float,
    idle_seconds: float,
    route: Route,
) -> Sessions:
    """Open both sessions, inside the event loop.

    Args:
        guard: judges the addresses of customers' endpoints at each new connection.
        count: follows the open connections of both.
        tls: trusts the public roots, and the operator's CA.
        connect_seconds: how long to wait for a connection: lookup, TCP and TLS together.
        idle_seconds: how long to wait for the next byte.
        route: maps validated addresses.
    """
    timeout = aiohttp.ClientTimeout(
        total=None,
        connect=connect_seconds,
        sock_connect=connect_seconds,
        sock_read=idle_seconds,
        ceil_threshold=3600,  # aiohttp rounds longer timeouts up to whole seconds
    )
    pinned = PinnedResolver(guard, route=route)
    return Sessions(
        operator=_session(streaming_connector(tls, count, reuse_seconds=_REUSE_SECONDS), timeout),
        custom=_session(
            streaming_connector(tls, count, reuse_seconds=_CUSTOM_REUSE_SECONDS, resolver=pinned), timeout
        ),
    )


def _session(connector: aiohttp.TCPConnector, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientSession:
    session = aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        request_class=_ForgetfulRequest,
        read_bufsize=_BUFFERED_BYTES,
        timeout=timeout,
        trace_configs=[_trace_config()],
    )
    # aiohttp repeats a GET whose reused connection dies. It has no public option to stop that; a test watches it.
    session._retry_connection = False  # noqa: SLF001
    return session


def _trace_config() -> aiohttp.TraceConfig:
    async def started(_session: Any, context: Any, params: aiohttp.TraceRequestStartParams) -> None:
        request: TracedRequest = context.trace_request_ctx
        request.keep_for_removal(params.headers)

    async def sending(_session: Any, context: Any, _params: aiohttp.TraceRequestHeadersSentParams) -> None:
        request: TracedRequest = context.trace_request_ctx
        request.sent()

    config = aiohttp.TraceConfig()
    config.on_request_start.append(started)
    config.on_request_headers_sent.append(sending)
    return config


class SingleUseBody(Payload):
    """A body that is written once, in pieces, and then forgotten."""

    _value: bytes

    def __init__(self, value: bytes) -> None:
        super().__init__(value)
        self._size = len(value)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self._value.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        value, self._value = self._value, b""
        if len(value) <= _WRITE_BYTES:
            await writer.write(value)
            return
        # A write over TLS encrypts all it gets before it returns.
        view = memoryview(value)
        for start in range(0, len(value), _WRITE_BYTES):
            await writer.write(view[start : start + _WRITE_BYTES])

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        del content_length  # always that of the whole body
        await self.write(writer)


class _ForgetfulRequest(aiohttp.ClientRequest):
    """A request that keeps no header after they are written: one of them is the key."""

    async def send(self, conn: Any) -> aiohttp.ClientResponse:
        response = await super().send(conn)
        self.headers.clear()
        return response

    @property
    def request_info(self) -> aiohttp.RequestInfo:
        return aiohttp.RequestInfo(self.url, self.method, CIMultiDictProxy(CIMultiDict()), self.original_url)
