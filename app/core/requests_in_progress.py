"""Requests whose response has not begun, and how much of the event loop they have used. Long work leaves time to short ones."""

import time
from contextvars import ContextVar
from typing import Final

# A request that has taken longer waits for another server, such as a provider.
_SHORT_SECONDS: Final = 0.25


class RequestInProgress:
    """The request of a task and of the tasks that it starts. It is short until it has used a slice of the event loop.

    Call `end` when its response begins, and when it ends without one.
    """

    __slots__ = ("arrived_at", "slices")

    def __init__(self) -> None:
        self.arrived_at = time.perf_counter()
        self.slices = 0
        _current.set(self)
        _short[self] = None

    def end(self) -> None:
        _short.pop(self, None)


_current: ContextVar[RequestInProgress | None] = ContextVar("request_in_progress", default=None)
# In the order in which they arrived.
_short: dict[RequestInProgress, None] = {}


def count_slice() -> int:
    """Note that the current request has used a slice. Returns how many it has used; 0 outside a request."""
    request = _current.get()
    if request is None:
        return 0
    _short.pop(request, None)
    request.slices += 1
    return request.slices


def has_short_request() -> bool:
    """Whether a short request has arrived within the last moments and waits for its response."""
    newest = next(reversed(_short), None)
    return newest is not None and time.perf_counter() - newest.arrived_at < _SHORT_SECONDS
