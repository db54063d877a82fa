"""Sockets for dnspython that limit the size of a response.

The owner of a name determines how long the response is: up to 64 KB over TCP. Parsing that in dnspython blocks the
event loop for a fifth of a second.
"""

from typing import Any, Final, Self

import dns.asyncbackend
import dns.exception

# Fits into one datagram on any network, so servers keep to it too. Enough for over forty addresses of either family.
MAX_RESPONSE_BYTES: Final = 1232


class DnsResponseTooLong(dns.exception.FormError):
    """The response exceeds the limit. dnspython treats it as malformed and does not retry its server in this lookup."""


class BoundedBackend(dns.asyncbackend.Backend):  # type: ignore[name-defined,misc]  # not exported explicitly
    """The asyncio backend of dnspython with a size limit for responses."""

    def __init__(self) -> None:
        self._inner: Any = dns.asyncbackend.get_backend("asyncio")

    async def make_socket(self, *args: Any, **options: Any) -> Any:
        return _BoundedSocket(await self._inner.make_socket(*args, **options))

    def datagram_connection_required(self) -> bool:
        return bool(self._inner.datagram_connection_required())

    async def sleep(self, interval: float) -> None:
        await self._inner.sleep(interval)


class _BoundedSocket:
    """A datagram or stream socket of dnspython with a size limit."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_raised: object) -> None:
        await self._inner.close()

    async def recv(self, size: int, timeout: float | None) -> Any:  # noqa: ASYNC109  # dnspython's signature
        # dnspython reads the length first and then requests that number of bytes.
        if size > MAX_RESPONSE_BYTES:
            raise DnsResponseTooLong
        return await self._inner.recv(size, timeout)

    async def recvfrom(self, size: int, timeout: float | None) -> Any:  # noqa: ASYNC109  # as above
        # Truncate instead of raising: any host can send a datagram, and dnspython has not checked its sender yet.
        data, address = await self._inner.recvfrom(size, timeout)
        return data[:MAX_RESPONSE_BYTES], address
