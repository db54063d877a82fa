"""Sockets for dnspython that read no more of an answer than a look-up needs.

Whoever owns a name decides how long the answer is: up to 64 KB over TCP, and the event loop stands
still while dnspython parses that, for a fifth of a second.
"""

from typing import Any, Final, Self

import dns.asyncbackend
import dns.exception

# What fits into a datagram anywhere, so servers keep to it too: more than forty addresses of either family.
MAX_ANSWER_BYTES: Final = 1232


class AnswerTooLong(dns.exception.FormError):
    """Taken as any malformed answer is: its server is not asked again in this look-up."""


class BoundedBackend(dns.asyncbackend.Backend):  # type: ignore[name-defined,misc]  # exported without a word of it
    """The sockets of asyncio, bounded."""

    def __init__(self) -> None:
        self._inner: Any = dns.asyncbackend.get_backend("asyncio")

    async def make_socket(self, *args: Any, **options: Any) -> Any:
        return _BoundedSocket(await self._inner.make_socket(*args, **options))

    def datagram_connection_required(self) -> bool:
        return bool(self._inner.datagram_connection_required())

    async def sleep(self, interval: float) -> None:
        await self._inner.sleep(interval)


class _BoundedSocket:
    """A socket of dnspython's, for datagrams or for a stream."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_raised: object) -> None:
        await self._inner.close()

    async def recv(self, size: int, timeout: float | None) -> Any:  # noqa: ASYNC109  # dnspython's signature
        # The length comes first, and then so many bytes are asked for.
        if size > MAX_ANSWER_BYTES:
            raise AnswerTooLong
        return await self._inner.recv(size, timeout)

    async def recvfrom(self, size: int, timeout: float | None) -> Any:  # noqa: ASYNC109  # likewise
        # Cut, not refused: anybody can send us a datagram, and dnspython has yet to see whose this is.
        data, address = await self._inner.recvfrom(size, timeout)
        return data[:MAX_ANSWER_BYTES], address
