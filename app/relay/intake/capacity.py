"""What an instance has room for: concurrent requests, for each organization and together, and bytes of bodies."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from app.core.memory_budget import MemoryBudget
from app.relay.errors import (
    BODY_MEMORY_EXCEEDED,
    CONCURRENCY_EXCEEDED,
    REQUEST_TOO_LARGE,
    SHUTTING_DOWN,
    RelayError,
)
from app.relay.records import RelayLimits


class Capacity:
    """Counts slots and bytes. Nothing waits for them: a client repeats a refused request by itself."""

    def __init__(self, limits: RelayLimits) -> None:
        self._limits = limits
        self._open: Counter[str] = Counter()
        self._detached = 0
        self.bodies = MemoryBudget(limits.bodies_bytes, per_organization=limits.bodies_bytes_per_organization)
        self.is_draining = False

    @property
    def open_requests(self) -> int:
        return self._open.total()

    @contextmanager
    def slot(self, organization_id: str) -> Iterator[None]:
        """Hold a slot of the organization and of the instance.

        Raises:
            RelayError: there is none, or the instance shuts down.
        """
        if self.is_draining:
            raise RelayError(SHUTTING_DOWN)
        if (
            self._open[organization_id] >= self._limits.slots_per_organization
            or self._open.total() >= self._limits.slots
        ):
            self._open += Counter()  # drops the zeros
            raise RelayError(CONCURRENCY_EXCEEDED)
        self._open[organization_id] += 1
        try:
            yield
        finally:
            self._open[organization_id] -= 1
            if not self._open[organization_id]:
                del self._open[organization_id]

    def detach(self) -> bool:
        """Take one of the few places for calls that go on without their client. Returns False if there is none."""
        if self._detached >= self._limits.detached_calls or self.is_draining:
            return False
        self._detached += 1
        return True

    def end_detached(self) -> None:
        self._detached -= 1


class BodyBudget:
    """The bytes that one request holds of the instance's budget. Give them back with `release`, once or more often."""

    def __init__(self, capacity: Capacity, limits: RelayLimits, organization_id: str) -> None:
        self._bodies = capacity.bodies
        self._limits = limits
        self._organization_id = organization_id
        self._held = 0

    def require(self, total: int) -> None:
        """Hold this many bytes in total.

        Raises:
            RelayError: the body is too large, or the organization or the instance holds too many bytes.
        """
        if total > self._limits.body_bytes:
            raise RelayError(REQUEST_TOO_LARGE)
        more = total - self._held
        if more <= 0:
            return
        if not self._bodies.try_hold(self._organization_id, more):
            raise RelayError(BODY_MEMORY_EXCEEDED)
        self._held = total

    def release(self) -> None:
        self._bodies.release(self._organization_id, self._held)
        self._held = 0
