"""httpx transports that connect only to validated and pinned addresses, or only to the operator's endpoint.

They use only the public API of httpcore. Neither transport follows redirects, uses proxies, keeps cookies,
decompresses, or reads the environment, however the client around it is configured.
"""

import ssl
from collections.abc import AsyncIterable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TypeAlias

import httpcore
import httpx

from app.core.url_errors import UrlReason
from app.egress.circuit_breaker import CircuitBreaker
from app.egress.deadline import Exchange, ResponseStream
from app.egress.exceptions import DestinationRefused, ResponseTooLarge
from app.egress.host_concurrency import HostConcurrencyLimit
from app.egress.network import CONNECT_SECONDS, BoundedNetwork, PinnedNetwork, ResponseBounds
from app.egress.resolver import AddressGuard
from app.provider_url.url_policy import validate_url

_Headers: TypeAlias = list[tuple[bytes, bytes]]

# The transport sets these: the host comes from the URL, responses are not compressed, cookies must not be shared
# between organizations.
_DROPPED_REQUEST_HEADERS = frozenset({b"host", b"accept-encoding", b"cookie"})
# Without these headers no client can follow redirects, decompress (10 MB may expand to 10 GB) or keep cookies.
_DROPPED_RESPONSE_HEADERS = frozenset({b"location", b"content-encoding", b"set-cookie"})


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressLimits:
    """Limits on the time, memory and connections that a peer can use."""

    connect_seconds: float = CONNECT_SECONDS  # DNS lookup, connect and TLS handshake together
    attempt_seconds: float = 2.0  # for one address if there are others to try
    total_seconds: float | None = 15.0  # the whole exchange; None for long-lived streams
    max_response_bytes: int = 1024 * 1024  # headers, framing and body
    header_bytes: int = 32 * 1024  # informational responses (1xx) and the head of the final response together
    informational_responses: int = 8
    headers: int = 128
    connections: int = 100
    connections_per_host: int = 20
    idle_connections: int = 20
    idle_seconds: float = 15.0
    timeout_threshold: int = 5
    open_seconds: float = 30.0


def pinned_transport(
    guard: AddressGuard,
    *,
    tls: ssl.SSLContext,
    limits: EgressLimits = EgressLimits(),  # immutable
    network_backend: httpcore.AsyncNetworkBackend | None = None,
) -> "OutboundTransport":
    """Create the transport for custom endpoints.

    It applies the URL policy to every request and the address policy to every connection.
    """
    network = PinnedNetwork(
        guard,
        attempt_seconds=limits.attempt_seconds,
        network_backend=network_backend or httpcore.AnyIOBackend(),
    )
    return OutboundTransport(network, check_url=_check_url_policy, tls=tls, limits=limits)


def operator_endpoint_transport(
    base_url: str,
    *,
    tls: ssl.SSLContext,
    limits: EgressLimits = EgressLimits(),  # immutable
) -> "OutboundTransport":
    """Create the transport for the operator's default endpoint.

    The URL and address policies do not apply, but it connects only to the origin of `base_url`.
    """
    trusted = httpx.URL(base_url)

    def check_url(url: httpx.URL) -> None:
        if (url.scheme, url.raw_host, url.port) != (trusted.scheme, trusted.raw_host, trusted.port):
            raise DestinationRefused(UrlReason.HOST_INVALID)

    return OutboundTransport(httpcore.AnyIOBackend(), check_url=check_url, tls=tls, limits=limits)


class OutboundTransport(httpx.AsyncBaseTransport):
    """An httpx transport with limits. Create it with `pinned_transport` or `operator_endpoint_transport`."""

    def __init__(
        self,
        network: httpcore.AsyncNetworkBackend,
        *,
        check_url: Callable[[httpx.URL], None],
        tls: ssl.SSLContext,
        limits: EgressLimits,
    ) -> None:
        self._check_url = check_url
        self._limits = limits
        self._concurrency = HostConcurrencyLimit(limits.connections_per_host)
        self._breaker = CircuitBreaker(
            timeout_threshold=limits.timeout_threshold, open_seconds=limits.open_seconds
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
                network,
                connect_seconds=limits.connect_seconds,
                bounds=ResponseBounds(
                    max_bytes=limits.max_response_bytes,
                    max_head_bytes=limits.header_bytes,
                    max_informational=limits.informational_responses,
                ),
            ),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._check_url(request.url)
        self._breaker.raise_if_open(request.url)
        exchange = Exchange(request.url, self._breaker, total_seconds=self._limits.total_seconds)
        host = request.url.raw_host.decode("ascii")  # `host` decodes A-labels, and raises for some
        async with AsyncExitStack() as stack:
            await self._concurrency.acquire(host, _timeouts(request).get("pool"))
            stack.callback(self._concurrency.release, host)
            response = await exchange.step(self._pool.handle_async_request(_to_httpcore(request)))
            stack.push_async_callback(response.aclose)
            return httpx.Response(
                response.status,
                headers=self._accepted_headers(response.headers),
                stream=ResponseStream(
                    response,
                    exchange,
                    max_response_bytes=self._limits.max_response_bytes,
                    on_close=stack.pop_all(),
                ),
                extensions={"http_version": response.extensions["http_version"]},
            )

    async def aclose(self) -> None:
        await self._pool.aclose()

    def _accepted_headers(self, headers: _Headers) -> _Headers:
        size = sum(len(name) + len(value) for name, value in headers)
        if len(headers) > self._limits.headers or size > self._limits.header_bytes:
            raise ResponseTooLarge
        return [(name, value) for name, value in headers if name.lower() not in _DROPPED_RESPONSE_HEADERS]


def _check_url_policy(url: httpx.URL) -> None:
    """Apply the whole URL policy again, directly before a connection; this takes microseconds. A query is allowed."""
    validated = validate_url(str(url).partition("#")[0].partition("?")[0])
    if isinstance(validated, UrlReason):
        raise DestinationRefused(validated)
    if validated.host.encode() != url.raw_host:
        raise DestinationRefused(UrlReason.HOST_INVALID)


def _to_httpcore(request: httpx.Request) -> httpcore.Request:
    assert isinstance(request.stream, AsyncIterable)
    url = request.url
    kept = [
        (name, value) for name, value in request.headers.raw if name.lower() not in _DROPPED_REQUEST_HEADERS
    ]
    return httpcore.Request(
        method=request.method,
        url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
        headers=[(b"Host", url.netloc), *kept, (b"Accept-Encoding", b"identity")],
        content=request.stream,
        # Pass only this extension: `sni_hostname` would verify the certificate of another name.
        extensions={"timeout": _timeouts(request)},
    )


def _timeouts(request: httpx.Request) -> dict[str, float | None]:
    timeouts: dict[str, float | None] = request.extensions.get("timeout", {})
    return timeouts
