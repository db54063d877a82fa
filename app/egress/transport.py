"""The safe way out: httpx transports that connect to vetted addresses only, or to the operator's endpoint only.

Public API of httpcore throughout. Neither transport follows redirects, uses proxies, keeps cookies,
decompresses, or reads the environment, whatever the client around it is set to.
"""

import ssl
from collections.abc import AsyncIterable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TypeAlias

import httpcore
import httpx

from app.core.url_errors import UrlReason
from app.egress.circuit_breaker import CircuitBreaker, HostSlots
from app.egress.deadline import AnswerStream, Exchange
from app.egress.exceptions import AnswerTooLarge, DestinationRefused
from app.egress.network import CONNECT_SECONDS, BoundedNetwork, VettedNetwork
from app.egress.resolver import AddressGuard
from app.provider_url.url_policy import judge_url

_Headers: TypeAlias = list[tuple[bytes, bytes]]

# Ours to set: the host is the URL's, nothing comes compressed, cookies of one organization are not another's.
_REQUEST_HEADERS_DROPPED = frozenset({b"host", b"accept-encoding", b"cookie"})
# A client that would follow, decompress (ten megabytes may unpack to ten gigabytes) or remember, cannot.
_ANSWER_HEADERS_DROPPED = frozenset({b"location", b"content-encoding", b"set-cookie"})


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressLimits:
    """What a peer may make us spend."""

    connect_seconds: float = CONNECT_SECONDS  # look-up, connect and TLS handshake together
    attempt_seconds: float = 2.0  # for one address while there are others
    total_seconds: float | None = 15.0  # the whole exchange; None for streams that last
    answer_bytes: int = 1024 * 1024  # headers, framing and body
    header_bytes: int = 32 * 1024
    headers: int = 128
    connections: int = 100
    connections_per_host: int = 20
    idle_connections: int = 20
    idle_seconds: float = 15.0
    hangs_before_pause: int = 5
    pause_seconds: float = 30.0


def vetted_transport(
    guard: AddressGuard,
    *,
    tls: ssl.SSLContext,
    limits: EgressLimits = EgressLimits(),  # immutable
    dialer: httpcore.AsyncNetworkBackend | None = None,
) -> "OutboundTransport":
    """For destinations that a customer entered: URL policy at every request, address policy at every connection."""
    network = VettedNetwork(
        guard, attempt_seconds=limits.attempt_seconds, dialer=dialer or httpcore.AnyIOBackend()
    )
    return OutboundTransport(network, admit=_admit_by_policy, tls=tls, limits=limits)


def trusted_transport(
    base_url: str,
    *,
    tls: ssl.SSLContext,
    limits: EgressLimits = EgressLimits(),  # immutable
) -> "OutboundTransport":
    """For the operator's own default endpoint, outside URL and address policy; it reaches that origin and no other."""
    trusted = httpx.URL(base_url)

    def admit(url: httpx.URL) -> None:
        if (url.scheme, url.raw_host, url.port) != (trusted.scheme, trusted.raw_host, trusted.port):
            raise DestinationRefused(UrlReason.HOST_INVALID)

    return OutboundTransport(httpcore.AnyIOBackend(), admit=admit, tls=tls, limits=limits)


class OutboundTransport(httpx.AsyncBaseTransport):
    """An httpx transport within limits. Made by `vetted_transport` and `trusted_transport`."""

    def __init__(
        self,
        network: httpcore.AsyncNetworkBackend,
        *,
        admit: Callable[[httpx.URL], None],
        tls: ssl.SSLContext,
        limits: EgressLimits,
    ) -> None:
        self._admit = admit
        self._limits = limits
        self._slots = HostSlots(limits.connections_per_host)
        self._breaker = CircuitBreaker(
            hangs_before_pause=limits.hangs_before_pause, pause_seconds=limits.pause_seconds
        )
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=limits.connections,
            max_keepalive_connections=limits.idle_connections,
            keepalive_expiry=limits.idle_seconds,
            http1=True,
            http2=False,  # its header compression logs header values
            retries=0,
            network_backend=BoundedNetwork(
                network, connect_seconds=limits.connect_seconds, answer_bytes=limits.answer_bytes
            ),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._admit(request.url)
        self._breaker.check(request.url)
        exchange = Exchange(request.url, self._breaker, total_seconds=self._limits.total_seconds)
        async with AsyncExitStack() as stack:
            await self._slots.take(request.url.host, _timeouts(request).get("pool"))
            stack.callback(self._slots.give_back, request.url.host)
            answer = await exchange.step(self._pool.handle_async_request(_to_httpcore(request)))
            stack.push_async_callback(answer.aclose)
            return httpx.Response(
                answer.status,
                headers=self._accepted_headers(answer.headers),
                stream=AnswerStream(
                    answer, exchange, answer_bytes=self._limits.answer_bytes, on_close=stack.pop_all()
                ),
                extensions={"http_version": answer.extensions["http_version"]},
            )

    async def aclose(self) -> None:
        await self._pool.aclose()

    def _accepted_headers(self, headers: _Headers) -> _Headers:
        size = sum(len(name) + len(value) for name, value in headers)
        if len(headers) > self._limits.headers or size > self._limits.header_bytes:
            raise AnswerTooLarge
        return [(name, value) for name, value in headers if name.lower() not in _ANSWER_HEADERS_DROPPED]


def _admit_by_policy(url: httpx.URL) -> None:
    """The whole policy again, as the last thing before a connection: it costs microseconds. We may add a query."""
    judged = judge_url(str(url).partition("#")[0].partition("?")[0])
    if isinstance(judged, UrlReason):
        raise DestinationRefused(judged)
    if judged.host.encode() != url.raw_host:
        raise DestinationRefused(UrlReason.HOST_INVALID)


def _to_httpcore(request: httpx.Request) -> httpcore.Request:
    assert isinstance(request.stream, AsyncIterable)
    url = request.url
    kept = [
        (name, value) for name, value in request.headers.raw if name.lower() not in _REQUEST_HEADERS_DROPPED
    ]
    return httpcore.Request(
        method=request.method,
        url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
        headers=[(b"Host", url.netloc), *kept, (b"Accept-Encoding", b"identity")],
        content=request.stream,
        # Of the extensions only this one: `sni_hostname` would check the certificate of another name.
        extensions={"timeout": _timeouts(request)},
    )


def _timeouts(request: httpx.Request) -> dict[str, float | None]:
    timeouts: dict[str, float | None] = request.extensions.get("timeout", {})
    return timeouts
