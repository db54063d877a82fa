"""Bounds the open connections of a process, and the responses that wait in them to be read."""

from asyncio import Transport
from collections import Counter
from collections.abc import Callable

import structlog

from app.observability.metrics import CONNECTIONS_CLOSED, OPEN_CONNECTIONS

_LOG_SECONDS = 10.0

log = structlog.get_logger("byok.connections")


class OpenConnections:
    """The open connections, up to a limit.

    At the limit, a new connection displaces the one that has waited longest without a complete request head. If all
    others have a request in progress, the new connection is closed.

    Args:
        limit: how many connections may be open.
        clock: monotonic seconds, to log a full table at most once in 10 seconds.
    """

    def __init__(self, limit: int, *, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._clock = clock
        self._open: set[Transport] = set()
        self._waiting: dict[Transport, None] = {}  # in the order in which they began to wait
        self._logged_at = -_LOG_SECONDS

    def add(self, transport: Transport) -> bool:
        """Register a new connection, which waits for a request. Returns False if it must be closed."""
        if len(self._open) >= self._limit and not self._displace():
            CONNECTIONS_CLOSED.labels("refused").inc()
            return False
        self._open.add(transport)
        self._waiting[transport] = None
        OPEN_CONNECTIONS.set(len(self._open))
        return True

    def begin_request(self, transport: Transport) -> None:
        """The head of a request is complete: the connection is not displaced any more."""
        self._waiting.pop(transport, None)

    def end_request(self, transport: Transport) -> None:
        """All responses are complete: the connection waits for the next request."""
        if transport in self._open:
            self._waiting[transport] = None

    def discard(self, transport: Transport) -> None:
        self._open.discard(transport)
        self._waiting.pop(transport, None)
        OPEN_CONNECTIONS.set(len(self._open))

    def _displace(self) -> bool:
        """Close the connection that has waited longest. Returns False if none waits."""
        self._log_full()
        oldest = next(iter(self._waiting), None)
        if oldest is None:
            return False
        self.discard(oldest)
        oldest.abort()  # its descriptor is free at once; a graceful close would wait for the client
        CONNECTIONS_CLOSED.labels("displaced").inc()
        return True

    def _log_full(self) -> None:
        if self._clock() - self._logged_at >= _LOG_SECONDS:
            self._logged_at = self._clock()
            log.warning("connection_limit_reached", limit=self._limit, without_a_request=len(self._waiting))


class UnreadResponses:
    """The bytes of responses that their clients have not read yet, up to a limit.

    Beyond it, the organization with the most of them loses the connection that has waited longest.

    Args:
        limit_bytes: for the sum over all connections.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._unread: dict[Transport, tuple[str, int]] = {}  # in the order in which they began to wait
        self.total_bytes = 0

    def add(self, transport: Transport, organization_id: str, unread_bytes: int) -> None:
        """A client reads more slowly than its response is written."""
        self.discard(transport)
        self._unread[transport] = organization_id, unread_bytes
        self.total_bytes += unread_bytes
        while self.total_bytes > self._limit_bytes:
            self._close_one()

    def discard(self, transport: Transport) -> None:
        """The client has read nearly all of it, or left."""
        _, unread_bytes = self._unread.pop(transport, ("", 0))
        self.total_bytes -= unread_bytes

    def _close_one(self) -> None:
        held: Counter[str] = Counter()
        for organization_id, unread_bytes in self._unread.values():
            held[organization_id] += unread_bytes
        ((most, _),) = held.most_common(1)
        oldest = next(it for it, (organization_id, _) in self._unread.items() if organization_id == most)
        self.discard(oldest)
        oldest.abort()
        CONNECTIONS_CLOSED.labels("unread").inc()
