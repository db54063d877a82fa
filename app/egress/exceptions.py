"""What goes wrong on the way out, as httpx exceptions with constant messages."""

import httpx

from app.core.url_errors import UrlReason


class DestinationRefused(httpx.ConnectError):
    """Policy forbids to connect there. Repeating does not help."""

    def __init__(self, reason: UrlReason) -> None:
        super().__init__("The destination breaks the URL policy.")
        self.reason = reason


class NameNotFound(httpx.ConnectError):
    """The host name has no addresses."""

    def __init__(self) -> None:
        super().__init__("The host name has no addresses.")


class NameUnavailable(httpx.ConnectError):
    """No resolver could say where the host is. Says nothing about the host."""

    def __init__(self) -> None:
        super().__init__("The host name could not be looked up.")


class HostSuspended(httpx.ConnectTimeout):
    """The host hung several times in a row and is left alone for a while."""

    def __init__(self) -> None:
        super().__init__("The host did not answer the last requests; it is left alone for a while.")


class AnswerTooSlow(httpx.ReadTimeout):
    """The whole exchange took longer than it may, however steadily it dripped."""

    def __init__(self) -> None:
        super().__init__("The answer took too long.")


class AnswerTooLarge(httpx.RemoteProtocolError):
    """Headers, framing and body together are longer than any answer we want."""

    def __init__(self) -> None:
        super().__init__("The answer is too large.")
