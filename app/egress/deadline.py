"""One request and its answer: a deadline over both, failures in httpx's words, hangs counted."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable
from contextlib import AsyncExitStack
from typing import Final, TypeVar

import httpcore
import httpx

from app.egress.circuit_breaker import CircuitBreaker
from app.egress.exceptions import AnswerTooLarge, AnswerTooSlow

_T = TypeVar("_T")
_LEAST_PIECE: Final = 64

COUNTERPARTS: dict[type[Exception], type[httpx.TransportError]] = {
    httpcore.ConnectTimeout: httpx.ConnectTimeout,
    httpcore.ReadTimeout: httpx.ReadTimeout,
    httpcore.WriteTimeout: httpx.WriteTimeout,
    httpcore.PoolTimeout: httpx.PoolTimeout,
    httpcore.TimeoutException: httpx.TimeoutException,
    httpcore.ConnectError: httpx.ConnectError,
    httpcore.ReadError: httpx.ReadError,
    httpcore.WriteError: httpx.WriteError,
    httpcore.NetworkError: httpx.NetworkError,
    httpcore.ProxyError: httpx.ProxyError,
    httpcore.UnsupportedProtocol: httpx.UnsupportedProtocol,
    httpcore.LocalProtocolError: httpx.LocalProtocolError,
    httpcore.RemoteProtocolError: httpx.RemoteProtocolError,
    httpcore.ProtocolError: httpx.ProtocolError,
}


class Exchange:
    """What the steps from request to last byte have in common.

    Args:
        url: of the request.
        breaker: told how it went.
        total_seconds: for all steps together, from now on.
    """

    def __init__(self, url: httpx.URL, breaker: CircuitBreaker, *, total_seconds: float | None) -> None:
        self._url = url
        self._breaker = breaker
        self._started_at = asyncio.get_running_loop().time()
        self._deadline = None if total_seconds is None else self._started_at + total_seconds

    async def step(self, awaitable: Awaitable[_T]) -> _T:
        """Wait for the next piece.

        Raises:
            httpx.TransportError
        """
        cause: Exception | None = None
        try:
            async with asyncio.timeout_at(self._deadline):
                return await awaitable
        except TimeoutError:
            failure: httpx.TransportError = AnswerTooSlow()
        except httpcore.ProtocolError as error:
            # Its message quotes what was sent or received, which may be the key. So the chain ends here.
            failure = _counterpart(error)("The peers do not speak the same HTTP.")
        except tuple(COUNTERPARTS) as error:
            failure, cause = _counterpart(error)(str(error)), error
        except asyncio.CancelledError as error:
            self._breaker.failed(self._url, error, waited_seconds=self._waited_seconds)
            raise
        self._breaker.failed(self._url, failure, waited_seconds=self._waited_seconds)
        raise failure from cause

    def complete(self) -> None:
        self._breaker.answered(self._url)

    @property
    def _waited_seconds(self) -> float:
        return asyncio.get_running_loop().time() - self._started_at


class AnswerStream(httpx.AsyncByteStream):
    """The body as it arrives. Closing it gives back the connection and the slot.

    A chunk of one byte costs as much work as one of a thousand, so no piece counts for less than
    `_LEAST_PIECE` bytes of the answer's size.
    """

    def __init__(
        self, answer: httpcore.Response, exchange: Exchange, *, answer_bytes: int, on_close: AsyncExitStack
    ) -> None:
        self._answer = answer
        self._exchange = exchange
        self._bytes_left = answer_bytes
        self._on_close = on_close

    async def __aiter__(self) -> AsyncIterator[bytes]:
        assert isinstance(self._answer.stream, AsyncIterable)
        parts = aiter(self._answer.stream)
        while (part := await self._exchange.step(anext(parts, None))) is not None:
            self._bytes_left -= max(len(part), _LEAST_PIECE)
            if self._bytes_left < 0:
                raise AnswerTooLarge
            yield part
        self._exchange.complete()

    async def aclose(self) -> None:
        await self._on_close.aclose()


def _counterpart(error: Exception) -> type[httpx.TransportError]:
    return next(COUNTERPARTS[kind] for kind in type(error).__mro__ if kind in COUNTERPARTS)
