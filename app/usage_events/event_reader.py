"""Reads the events of one request: decodes each of them, and collects the rejected ones."""

from collections.abc import Iterable, Sequence

from app.usage_events.batch_splitter import MAX_EVENT_BYTES
from app.usage_events.event_decoder import EventRejected, decode_event
from app.usage_events.events import EventBatch, EventCode, EventStatus, NotAccepted, UsageEvent

# Each iteration may have its own price, so their number bounds the time to price a batch.
MAX_BATCH_ITERATIONS = 10_000

_SHORTEST_EVENT = 8


class EventReader:
    """Decodes the events of one request and collects the rejected ones with their codes.

    Args:
        first_index: the index of the next event in the request.
        max_iterations: the limit for all events together; later ones are rejected. None for no limit.
    """

    def __init__(self, first_index: int = 0, *, max_iterations: int | None = None) -> None:
        self.next_index = first_index
        self.rejected: list[NotAccepted] = []
        self._events: list[UsageEvent] = []
        self._digests: list[bytes] = []
        self._indexes: list[int] = []
        self._usages: list[bytes | None] = []
        self._flags: list[int] = []
        self._iterations_left = max_iterations

    def read(self, raws: Iterable[bytes | memoryview | None]) -> None:
        """Decode the next events. Blank lines are skipped, but count for the index. None is an event that is too large."""
        for raw in raws:
            index = self.next_index
            self.next_index += 1
            if raw is None or len(raw) > MAX_EVENT_BYTES:
                self._reject(index, None, EventCode.EVENT_TOO_LARGE)
                continue
            if not raw or (len(raw) < _SHORTEST_EVENT and not bytes(raw).strip()):
                continue
            try:
                event, digest, usage, flags = decode_event(raw)
            except EventRejected as error:
                self._reject(index, error.event_id, error.code, error.fields)
                continue
            if not self._admit_iterations(len(event.usage.iterations or ())):
                self._reject(index, event.event_id, EventCode.TOO_MANY_ITERATIONS)
                continue
            self._events.append(event)
            self._digests.append(digest)
            self._indexes.append(index)
            self._usages.append(usage)
            self._flags.append(flags)

    def batch(self) -> EventBatch:
        """Return the events that were decoded since the last call."""
        batch = EventBatch(
            events=self._events,
            digests=self._digests,
            indexes=self._indexes,
            usages=self._usages,
            flags=self._flags,
        )
        self._events, self._digests, self._indexes, self._usages, self._flags = [], [], [], [], []
        return batch

    def _admit_iterations(self, number: int) -> bool:
        if self._iterations_left is None:
            return True
        if number > self._iterations_left:
            return False
        self._iterations_left -= number
        return True

    def _reject(self, index: int, event_id: str | None, code: str, fields: Sequence[str] = ()) -> None:
        self.rejected.append(
            NotAccepted(index=index, event_id=event_id, status=EventStatus.REJECTED, code=code, fields=fields)
        )
