"""Errors of egress, as httpx exceptions with constant messages, so that no message quotes input."""

import httpx

from app.core.url_errors import UrlReason


class DestinationRefused(httpx.ConnectError):
    """The URL policy forbids this destination. A retry does not help."""

    def __init__(self, reason: UrlReason) -> None:
        super().__init__("The URL policy forbids this destination.")
        self.reason = reason


class NameNotFound(httpx.ConnectError):
    """The host name has no addresses."""

    def __init__(self) -> None:
        super().__init__("The host name has no addresses.")


class NameLookupFailed(httpx.ConnectError):
    """The DNS lookup failed. This does not mean that the host does not exist."""

    def __init__(self) -> None:
        super().__init__("The DNS lookup of the host name failed.")


class CircuitOpen(httpx.ConnectTimeout):
    """Several consecutive requests timed out, so the circuit breaker sends no requests for some time."""

    def __init__(self) -> None:
        super().__init__("The last requests to this host timed out; requests are suspended for some time.")


class ResponseTooSlow(httpx.ReadTimeout):
    """The exchange exceeded its total timeout, even if bytes kept arriving."""

    def __init__(self) -> None:
        super().__init__("The response took too long.")


class ResponseTooLarge(httpx.RemoteProtocolError):
    """The response exceeds a limit: of its head, of the informational responses before it, or of its total size."""

    def __init__(self) -> None:
        super().__init__("The response is too large.")
