"""Where connections are made: every name is looked up and vetted anew, and only what passed is dialled.

The URL is never rewritten to an address, so pooling, SNI, Host and certificate check go by name.
"""

import asyncio
import select
import socket
import ssl
from collections.abc import Iterable
from functools import cached_property
from itertools import chain, zip_longest
from typing import Any, Final

import httpcore

from app.core.url_errors import DnsUnavailable, UrlReason, UrlRefused
from app.egress.exceptions import AnswerTooLarge, DestinationRefused, NameNotFound, NameUnavailable
from app.egress.resolver import Address, AddressGuard
from app.provider_url.host_name import judge_host

HTTPS_PORT: Final = 443
CONNECT_SECONDS: Final = 5.0
_MAX_ATTEMPTS: Final = 6


class VettedNetwork(httpcore.AsyncNetworkBackend):
    """Dials port 443 of vetted addresses.

    Args:
        guard: asked at every new connection.
        attempt_seconds: for one address, while there are others to try.
        dialer: opens the connection to an address.
    """

    def __init__(
        self, guard: AddressGuard, *, attempt_seconds: float, dialer: httpcore.AsyncNetworkBackend
    ) -> None:
        self._guard = guard
        self._attempt_seconds = attempt_seconds
        self._dialer = dialer

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
        if judge_host(host) != host:
            raise DestinationRefused(UrlReason.HOST_INVALID)
        deadline = _deadline(CONNECT_SECONDS if timeout is None else timeout)
        addresses = in_turn(await self._vet(host, deadline))[:_MAX_ATTEMPTS]
        for address in addresses[:-1]:
            seconds = min(self._attempt_seconds, _remaining(deadline))
            try:
                return await self._dialer.connect_tcp(
                    str(address), port, seconds, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._dialer.connect_tcp(
            str(addresses[-1]), port, _remaining(deadline), local_address, socket_options
        )

    async def _vet(self, host: str, deadline: float) -> tuple[Address, ...]:
        try:
            async with asyncio.timeout_at(deadline):
                return await self._guard.vet(host)
        except (DnsUnavailable, TimeoutError):
            raise NameUnavailable from None
        except UrlRefused as refusal:
            if refusal.reason is UrlReason.DNS_NO_RECORDS:
                raise NameNotFound from None
            raise DestinationRefused(refusal.reason) from None


class BoundedNetwork(httpcore.AsyncNetworkBackend):
    """Bounds what a peer can make us do: one deadline for look-up, connect and handshake, one size for an answer.

    Args:
        inner: makes the connections.
        connect_seconds: from the look-up to the end of the TLS handshake.
        answer_bytes: for one answer, everything counted.
    """

    def __init__(
        self, inner: httpcore.AsyncNetworkBackend, *, connect_seconds: float, answer_bytes: int
    ) -> None:
        self._inner = inner
        self._connect_seconds = connect_seconds
        self._answer_bytes = answer_bytes

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
        return _BoundedStream(stream, host=host, deadline=deadline, answer_bytes=self._answer_bytes)

    # connect_unix_socket is the base class's: not implemented. A socket file is no destination.


class _BoundedStream(httpcore.AsyncNetworkStream):
    """One connection. In HTTP/1.1 what is read since the last write is one answer."""

    def __init__(
        self, inner: httpcore.AsyncNetworkStream, *, host: str, deadline: float, answer_bytes: int
    ) -> None:
        self._inner = inner
        self._host = host
        self._deadline = deadline
        self._answer_bytes = answer_bytes
        self._bytes_left = answer_bytes

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109  # httpcore's signature
        data = await self._inner.read(max_bytes, timeout)
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            raise AnswerTooLarge
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109  # httpcore's signature
        self._bytes_left = self._answer_bytes
        await self._inner.write(buffer, timeout)

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002, ASYNC109  # httpcore's signature; ours started with the look-up
    ) -> httpcore.AsyncNetworkStream:
        if server_hostname != self._host:
            await self._inner.aclose()
            raise DestinationRefused(UrlReason.HOST_INVALID)
        stream = await self._inner.start_tls(ssl_context, server_hostname, _remaining(self._deadline))
        return _BoundedStream(
            stream, host=self._host, deadline=self._deadline, answer_bytes=self._answer_bytes
        )

    async def aclose(self) -> None:
        await self._inner.aclose()

    def get_extra_info(self, info: str) -> Any:
        # The pool asks every idle connection at every request; looking for the socket costs ten times the answer.
        if info == "is_readable":
            return _is_readable(self._socket)
        return self._inner.get_extra_info(info)

    @cached_property
    def _socket(self) -> socket.socket | None:
        found: socket.socket | None = self._inner.get_extra_info("socket")
        return found


def in_turn(addresses: Iterable[Address]) -> list[Address]:
    """Families by turns, so that one that is broken costs one attempt.

    IPv4 first, as attempts are made one after the other: where there is no IPv4, connecting
    fails at once, while a broken IPv6 tends to swallow packets.
    """
    ordered = list(addresses)
    families = ([address for address in ordered if address.version == version] for version in (4, 6))
    return [address for address in chain.from_iterable(zip_longest(*families)) if address is not None]


def _is_readable(connection: socket.socket | None) -> bool:
    """Whether an idle connection has something to say, which can only be that it ends. Without a socket: as if so."""
    if connection is None or connection.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def _deadline(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


def _remaining(deadline: float) -> float:
    return max(0.0, deadline - asyncio.get_running_loop().time())
