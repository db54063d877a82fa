"""One HTTP exchange: a deadline for request and response together, httpx exceptions, and circuit breaker updates."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable
from contextlib import AsyncExitStack
from typing import Final, TypeVar

import httpcore
import httpx

from app.egress.circuit_breaker import CircuitBreaker
from app.egress.exceptions import ResponseTooLarge, ResponseTooSlow

_T = TypeVar("_T")
_MIN_CHUNK_COST: Final = 64

HTTPX_ERRORS: dict[type[Exception], type[httpx.TransportError]] = {
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
    """One exchange, from the request to the last byte of the response.

    Args:
        url: the URL of the request.
        breaker: notified of the outcome.
        total_seconds: the limit for all steps together, starting now; `None` for no limit.
    """

    def __init__(self, url: httpx.URL, breaker: CircuitBreaker, *, total_seconds: float | None) -> None:
        self._url = url
        self._breaker = breaker
        self._started_at = asyncio.get_running_loop().time()
        self._deadline = None if total_seconds is None else self._started_at + total_seconds

    async def step(self, awaitable: Awaitable[_T]) -> _T:
        """Wait for one step and translate its exceptions to httpx.

        Raises:
            httpx.TransportError
        """
        cause: Exception | None = None
        try:
            async with asyncio.timeout_at(self._deadline):
                return await awaitable
        except TimeoutError:
            failure: httpx.TransportError = ResponseTooSlow()
        except httpcore.ProtocolError as error:
            # Its message quotes what was sent or received, possibly the key. So it is not kept as the cause.
            failure = _httpx_error(error)("HTTP protocol error.")
        except tuple(HTTPX_ERRORS) as error:
            failure, cause = _httpx_error(error)(str(error)), error
        except asyncio.CancelledError as error:
            self._breaker.record_failure(self._url, error, waited_seconds=self._waited_seconds)
            raise
        self._breaker.record_failure(self._url, failure, waited_seconds=self._waited_seconds)
        raise failure from cause

    def complete(self) -> None:
        """Record that the whole response arrived."""
        self._breaker.record_success(self._url)

    @property
    def _waited_seconds(self) -> float:
        return asyncio.get_running_loop().time() - self._started_at


class ResponseStream(httpx.AsyncByteStream):
    """Streams the body of a response. Closing it releases the connection and the slot.

    A chunk of one byte costs as much work as a chunk of a thousand bytes. So each chunk counts as at least
    `_MIN_CHUNK_COST` bytes of the response's size.
    """

    def __init__(
        self,
        response: httpcore.Response,
        exchange: Exchange,
        *,
        max_response_bytes: int,
        on_close: AsyncExitStack,
    ) -> None:
        self._response = response
        self._exchange = exchange
        self._bytes_left = max_response_bytes
        self._on_close = on_close

    async def __aiter__(self) -> AsyncIterator[bytes]:
        assert isinstance(self._response.stream, AsyncIterable)
        chunks = aiter(self._response.stream)
        while (chunk := await self._exchange.step(anext(chunks, None))) is not None:
            self._bytes_left -= max(len(chunk), _MIN_CHUNK_COST)
            if self._bytes_left < 0:
                raise ResponseTooLarge
            yield chunk
        self._exchange.complete()

    async def aclose(self) -> None:
        await self._on_close.aclose()


def _httpx_error(error: Exception) -> type[httpx.TransportError]:
    return next(HTTPX_ERRORS[kind] for kind in type(error).__mro__ if kind in HTTPX_ERRORS)
