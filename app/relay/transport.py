"""The relay's HTTP client: sends one request to a provider and hands out its response as it comes.

It never retries, follows a redirect, decompresses, keeps a cookie, caches a lookup or reads the environment. No message
quotes the provider or the request. References to the key and to the body go once they are written.

aiohttp is imported by the first request, in a thread: a start does not wait for it, and an instance without relayed calls
never loads it.
"""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Final

from multidict import CIMultiDict
from yarl import URL

from app.core.url_errors import UrlReason
from app.egress.exceptions import DestinationRefused, NameLookupFailed, NameNotFound, ResponseTooLarge
from app.egress.resolver import AddressGuard
from app.egress.streaming.connections import ConnectionCount, Route, direct
from app.provider_url.url_policy import validate_url
from app.relay.headers import is_encoded

if TYPE_CHECKING:
    import aiohttp

    from app.egress.streaming.session import Sessions, SingleUseBody

CONNECT_SECONDS: Final = 5.0
IDLE_SECONDS: Final = 620.0  # above the 600 s after which the SDKs stop waiting
UPLOAD_SECONDS: Final = 300.0
# Informational responses that end the exchange (101), and redirects.
_NOT_PASSED_ON: Final = frozenset({*range(100, 200), *range(300, 400)})
_AUTO_HEADERS: Final = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
_logger = logging.getLogger(__name__)


class TransportError(Exception):
    """The provider sent no response, or only a part of it. Messages are constant.

    Args:
        was_sent: bytes of the request may have left, so the provider may have worked.
    """

    def __init__(self, *, was_sent: bool) -> None:
        super().__init__(type(self).__name__)
        self.was_sent = was_sent


class ProviderUnreachable(TransportError):
    """There was no connection, or it broke: before the head, or within the body."""


class ProviderTimeout(TransportError):
    """There was no connection within 5 s, or no byte within the idle bound."""


class ProviderAddressRefused(TransportError):
    """The URL policy or the address policy forbids the destination. Nothing was sent."""


class ProviderResponseRefused(TransportError):
    """The relay does not pass this response on: a head that is too large or not HTTP, a redirect, an encoded body."""


@dataclass(slots=True, kw_only=True)
class ProviderRequest:
    """One request. `ProviderClient.open` takes headers and body out of it.

    Args:
        method: `GET` or `POST`.
        url: with path and query as they are to be sent.
        headers: all of them, but `host` and `content-length`; from `headers.to_provider`.
        body: None for `GET`.
        is_custom: the URL is a customer's, so the URL and address policies apply; otherwise it is the operator's.
        was_sent: set when the head is about to be written. From then on, the provider may have worked.
    """

    method: str
    url: str
    headers: Sequence[tuple[str, str]] = field(repr=False)
    body: bytes | None = field(default=None, repr=False)
    is_custom: bool
    was_sent: bool = False
    _prepared: CIMultiDict[str] | None = field(default=None, repr=False, init=False)

    def take(self) -> tuple[CIMultiDict[str], "SingleUseBody | None"]:
        """Return headers and body, and keep neither."""
        from app.egress.streaming.session import SingleUseBody  # noqa: PLC0415  # imported by the first request

        headers, body = CIMultiDict(self.headers), self.body
        self.headers, self.body = (), None
        return headers, None if body is None else SingleUseBody(body)

    def keep_for_removal(self, prepared: CIMultiDict[str]) -> None:
        """Remember aiohttp's copy of the headers, which it would hold until the head of the response."""
        self._prepared = prepared

    def sent(self) -> None:
        """Called directly before the head is written."""
        self.was_sent = True
        if self._prepared is not None:
            self._prepared.clear()
            self._prepared = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long to wait: to connect (lookup, TCP and TLS together), to send a body, and for the next byte."""

    connect_seconds: float = CONNECT_SECONDS
    upload_seconds: float = UPLOAD_SECONDS
    idle_seconds: float = IDLE_SECONDS


class ProviderResponse:
    """The head of a response, and its body as it comes. Close it, unless the body was read to its end."""

    def __init__(self, response: "aiohttp.ClientResponse", client: "ProviderClient") -> None:
        self.status = response.status
        self.headers: tuple[tuple[bytes, bytes], ...] = tuple(response.raw_headers)
        self._response = response
        self._client = client
        self._failure: BaseException | None = None
        self._is_open = True

    async def read(self) -> bytes:
        """The bytes that arrived since the last call; waits for the first of them. Empty at the end.

        Raises:
            ProviderUnreachable: the connection broke within the body.
            ProviderTimeout: no byte came for too long.
        """
        if self._failure is not None:
            raise _translated(self._failure, was_sent=True)
        try:
            chunk = await self._response.content.readany()
        except (_client_error(), OSError) as error:
            chunk = self._rest(error)
        if not chunk:
            self._end()
        return chunk

    def close(self) -> None:
        """Close the connection at once, unless the body was read to its end: then it is in the pool already."""
        if self._is_open:
            self._response.close()
            self._end()

    def _rest(self, error: BaseException) -> bytes:
        """What arrived before the connection broke. aiohttp would raise first and lose it."""
        self._failure = error
        rest = self._response.content._read_nowait(-1)  # noqa: SLF001  # `read_nowait` raises first, too
        if not rest:
            self.close()
            raise _translated(error, was_sent=True) from None
        return rest

    def _end(self) -> None:
        if self._is_open:
            self._is_open = False
            self._client.responses_open -= 1


class ProviderClient:
    """Sends requests to the operator's endpoint and to those of customers, over two pools. Use `open_client`.

    Args:
        open_sessions: opens the sessions, inside the event loop. Called by the first request.
        operator_origin: the only origin that the session for the operator's endpoint may reach.
        timeouts: how long to wait.
        count: the open connections of both.
    """

    def __init__(
        self,
        open_sessions: Callable[[], Awaitable["Sessions"]],
        *,
        operator_origin: URL,
        timeouts: Timeouts,
        count: ConnectionCount,
    ) -> None:
        self._open_sessions = open_sessions
        self._opening = asyncio.Lock()
        self._sessions: Sessions | None = None
        self._operator_origin = operator_origin
        self._timeouts = timeouts
        self._count = count
        self.responses_open = 0

    @property
    def connections_idle(self) -> int:
        """Connections without a request."""
        return max(0, self._count.open - self.responses_open)

    async def open(self, request: ProviderRequest) -> ProviderResponse:
        """Send the request and wait for the head of the response. A cancellation closes the connection at once.

        Raises:
            ProviderAddressRefused, ProviderUnreachable, ProviderTimeout, ProviderResponseRefused
        """
        sessions = self._sessions or await self._first_sessions()
        timeouts = self._timeouts
        whole = timeouts.connect_seconds + timeouts.upload_seconds + timeouts.idle_seconds
        try:
            async with asyncio.timeout(whole):
                raw = await self._send(request, sessions)
        except (_client_error(), DestinationRefused, NameNotFound, NameLookupFailed, OSError) as error:
            raise _translated(error, was_sent=request.was_sent) from None
        except ResponseTooLarge as error:
            raise _translated(error, was_sent=request.was_sent) from None
        self.responses_open += 1
        response = ProviderResponse(raw, self)
        if response.status in _NOT_PASSED_ON or is_encoded(response.headers):
            response.close()
            raise ProviderResponseRefused(was_sent=True)
        return response

    async def close(self) -> None:
        """Close all connections."""
        if self._sessions is not None:
            await self._sessions.close()

    async def _first_sessions(self) -> "Sessions":
        async with self._opening:
            if self._sessions is None:
                self._sessions = await self._open_sessions()
        return self._sessions

    async def _send(self, request: ProviderRequest, sessions: "Sessions") -> "aiohttp.ClientResponse":
        url = URL(request.url, encoded=True)
        self._check(url, is_custom=request.is_custom)
        session = sessions.custom if request.is_custom else sessions.operator
        headers, body = request.take()
        # Not awaited in the same expression: this frame must not hold the headers while it waits.
        pending = session.request(
            request.method,
            url,
            headers=headers,
            data=body,
            allow_redirects=False,
            skip_auto_headers=_AUTO_HEADERS,
            trace_request_ctx=request,
        )
        del headers, body
        return await pending

    def _check(self, url: URL, *, is_custom: bool) -> None:
        if not is_custom:
            if url.origin() != self._operator_origin:
                raise DestinationRefused(UrlReason.HOST_INVALID)
            return
        validated = validate_url(str(url.with_query(None)))
        if isinstance(validated, UrlReason):
            raise DestinationRefused(validated)
        if validated.host != url.raw_host:
            raise DestinationRefused(UrlReason.HOST_INVALID)


def open_client(
    guard: AddressGuard,
    resources: AsyncExitStack,
    *,
    operator_base_url: str,
    tls: ssl.SSLContext,
    timeouts: Timeouts = Timeouts(),  # immutable
    route: Route = direct,
) -> ProviderClient:
    """Create the client. Its first request opens the pools; `resources` closes them.

    Args:
        guard: judges the addresses of customers' endpoints at each new connection.
        resources: closes the pools.
        operator_base_url: the operator's endpoint.
        tls: trusts the public roots, and the operator's CA.
        timeouts: how long to wait.
        route: tests replace it, because they reach only loopback.
    """
    count = ConnectionCount()

    async def open_sessions() -> "Sessions":
        # A tenth of a second of CPU time.
        session = await asyncio.to_thread(import_module, "app.egress.streaming.session")
        sessions: Sessions = session.open_sessions(
            guard,
            count,
            tls=tls,
            connect_seconds=timeouts.connect_seconds,
            idle_seconds=timeouts.idle_seconds,
            route=route,
        )
        return sessions

    client = ProviderClient(
        open_sessions,
        operator_origin=URL(operator_base_url, encoded=True).origin(),
        timeouts=timeouts,
        count=count,
    )
    resources.push_async_callback(client.close)
    return client


def _client_error() -> "type[aiohttp.ClientError]":
    """The base class of aiohttp's errors. Only handling an error calls this, so aiohttp is imported already."""
    import aiohttp  # noqa: PLC0415  # imported by the first request

    return aiohttp.ClientError


def _translated(error: BaseException, *, was_sent: bool) -> TransportError:
    import aiohttp  # noqa: PLC0415  # imported by the first request

    _logger.info("provider not reached: %s", type(error).__name__)
    match error:
        case DestinationRefused():
            return ProviderAddressRefused(was_sent=False)
        case TimeoutError():
            return ProviderTimeout(was_sent=was_sent)
        case ResponseTooLarge() | aiohttp.ClientResponseError():
            return ProviderResponseRefused(was_sent=was_sent)
    return ProviderUnreachable(was_sent=was_sent)
