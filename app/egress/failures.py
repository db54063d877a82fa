"""Classifies the exceptions of a request that got no response."""

import ssl
from collections.abc import Iterator

import httpx

from app.egress.exceptions import DestinationRefused, NameLookupFailed, ResponseTooLarge
from app.validation.probes import TransportFailure

# A closed connection and the steps of a handshake are SSLErrors too, but they do not mean a certificate problem.
_CONNECTION_CLOSED = (ssl.SSLEOFError, ssl.SSLZeroReturnError)
_NOT_TLS_FAILURES = (ssl.SSLWantReadError, ssl.SSLWantWriteError, *_CONNECTION_CLOSED)
_CONNECTION_BROKEN = (
    httpx.ReadError,
    httpx.WriteError,
    httpx.RemoteProtocolError,
    ConnectionResetError,
    BrokenPipeError,
)

# The first match wins. Exceptions of `app.egress` come first, because they are more specific than their causes.
_FAILURES: tuple[tuple[TransportFailure, tuple[type[BaseException], ...]], ...] = (
    (TransportFailure.ADDRESS_REFUSED, (DestinationRefused,)),
    (TransportFailure.DNS, (NameLookupFailed,)),
    (TransportFailure.UNREACHABLE, (ResponseTooLarge,)),
    (TransportFailure.TIMEOUT, (httpx.TimeoutException, TimeoutError)),
    (TransportFailure.TLS, (ssl.SSLError,)),
    (TransportFailure.RESET, (*_CONNECTION_BROKEN, *_CONNECTION_CLOSED)),
)


def classify(error: BaseException) -> TransportFailure:
    """Find out why the provider sent no response. httpx has no class for TLS failures, so this searches the chain of causes."""
    chain = tuple(_chain(error))
    for failure, kinds in _FAILURES:
        excluded = _NOT_TLS_FAILURES if failure is TransportFailure.TLS else ()
        if any(isinstance(link, kinds) and not isinstance(link, excluded) for link in chain):
            return failure
    return TransportFailure.UNREACHABLE


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__
