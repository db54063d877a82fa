"""Network backends of httpcore: each new connection resolves and validates the host and connects to the pinned address.

The URL is never rewritten to an address. So pooling, SNI, the Host header and the certificate check use the name.
"""

import asyncio
import select
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, zip_longest
from typing import Any, Final

import httpcore

from app.core.url_errors import DnsUnavailable, UrlReason, UrlRefused
from app.egress.exceptions import DestinationRefused, NameLookupFailed, NameNotFound, ResponseTooLarge
from app.egress.resolver import Address, AddressGuard
from app.egress.response_head import ResponseHeadLimit
from app.provider_url.host_name import validate_host

HTTPS_PORT: Final = 443
CONNECT_SECONDS: Final = 5.0
_MAX_ATTEMPTS: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseBounds:
    """Limits for one response. `max_bytes` includes heads, framing and body; `max_head_bytes` all heads."""

    max_bytes: int
    max_head_bytes: int
    max_informational: int


class PinnedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to port 443 of validated addresses only.

    Args:
        guard: resolves and validates the host for each new connection.
        attempt_seconds: the timeout for one address if there are others to try.
        network_backend: opens the connection to an address.
    """

    def __init__(
        self, guard: AddressGuard, *, attempt_seconds: float, network_backend: httpcore.AsyncNetworkBackend
    ) -> None:
        self._guard = guard
        self._attempt_seconds = attempt_seconds
        self._network_backend = network_backend

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        if port != HTTPS_PORT:
            raise DestinationRefused(UrlReason.PORT_NOT_ALLOWED)
        if validate_host(host) != host:
            raise DestinationRefused(UrlReason.HOST_INVALID)
        deadline = _deadline(CONNECT_SECONDS if timeout is None else timeout)
        addresses = interleave_families(await self._resolve(host, deadline))[:_MAX_ATTEMPTS]
        for address in addresses[:-1]:
            seconds = min(self._attempt_seconds, _remaining(deadline))
            try:
                return await self._network_backend.connect_tcp(
                    str(address), port, seconds, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._network_backend.connect_tcp(
            str(addresses[-1]), port, _remaining(deadline), local_address, socket_options
        )

    async def _resolve(self, host: str, deadline: float) -> tuple[Address, ...]:
        try:
            async with asyncio.timeout_at(deadline):
                return await self._guard.resolve_and_validate(host)
        except (DnsUnavailable, TimeoutError):
            raise NameLookupFailed from None
        except UrlRefused as refusal:
            if refusal.reason is UrlReason.DNS_NO_RECORDS:
                raise NameNotFound from None
            raise DestinationRefused(refusal.reason) from None


class BoundedNetwork(httpcore.AsyncNetworkBackend):
    """Limits the time of a connection setup and the size of a response.

    Args:
        inner: opens the connections.
        connect_seconds: the limit from the DNS lookup to the end of the TLS handshake.
        bounds: the limits for one response.
    """

    def __init__(
        self, inner: httpcore.AsyncNetworkBackend, *, connect_seconds: float, bounds: ResponseBounds
    ) -> None:
        self._inner = inner
        self._connect_seconds = connect_seconds
        self._bounds = bounds

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        seconds = self._connect_seconds if timeout is None else min(timeout, self._connect_seconds)
        deadline = _deadline(seconds)
        stream = await self._inner.connect_tcp(host, port, seconds, local_address, socket_options)
        return _BoundedStream(stream, host=host, deadline=deadline, bounds=self._bounds)

    # The base class does not implement `connect_unix_socket`. A socket file is not a valid destination.


class _BoundedStream(httpcore.AsyncNetworkStream):
    """One connection. In HTTP/1.1 the bytes read since the last write belong to one response."""

    def __init__(
        self, inner: httpcore.AsyncNetworkStream, *, host: str, deadline: float, bounds: ResponseBounds
    ) -> None:
        self._inner = inner
        self._host = host
        self._deadline = deadline
        self._bounds = bounds
        self._expect_response()

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109  # httpcore's signature
        data = await self._inner.read(max_bytes, timeout)
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            raise ResponseTooLarge
        self._head.receive(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109  # httpcore's signature
        self._expect_response()
        await self._inner.write(buffer, timeout)

    def _expect_response(self) -> None:
        bounds = self._bounds
        self._bytes_left = bounds.max_bytes
        self._head = ResponseHeadLimit(
            max_bytes=bounds.max_head_bytes, max_informational=bounds.max_informational
        )

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002, ASYNC109  # httpcore's signature; the deadline started with the lookup
    ) -> httpcore.AsyncNetworkStream:
        if server_hostname != self._host:
            await self._inner.aclose()
            raise DestinationRefused(UrlReason.HOST_INVALID)
        stream = await self._inner.start_tls(ssl_context, server_hostname, _remaining(self._deadline))
        return _BoundedStream(stream, host=self._host, deadline=self._deadline, bounds=self._bounds)

    async def aclose(self) -> None:
        await self._inner.aclose()

    def get_extra_info(self, info: str) -> Any:
        # The pool calls this for every idle connection at every request. Finding the socket is ten times slower.
        if info == "is_readable":
            return is_readable(self._socket)
        return self._inner.get_extra_info(info)

    @cached_property
    def _socket(self) -> socket.socket | None:
        found: socket.socket | None = self._inner.get_extra_info("socket")
        return found


def interleave_families(addresses: Iterable[Address]) -> list[Address]:
    """Alternate between IPv4 and IPv6 addresses, so that a broken family costs only one attempt.

    IPv4 comes first, because attempts are sequential: without IPv4, connecting fails immediately, but a broken
    IPv6 network tends to drop packets silently.
    """
    ordered = list(addresses)
    families = ([address for address in ordered if address.version == version] for version in (4, 6))
    return [address for address in chain.from_iterable(zip_longest(*families)) if address is not None]


def is_readable(connection: socket.socket | None) -> bool:
    """Whether an idle connection is readable, which means that the peer closed it. True if the socket is missing."""
    if connection is None or connection.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def _deadline(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


def _remaining(deadline: float) -> float:
    return max(0.0, deadline - asyncio.get_running_loop().time())
