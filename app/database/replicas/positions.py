"""Positions of the primary in the write-ahead log (WAL), and the times at which it had them.

A process asks the primary once a second for its time and its position. A replica that has replayed that position shows
all that the service had accepted before that time. This needs no write, holds while the primary is idle, and compares
no clocks of two servers. See docs/explanation/adr/0036-poolers-and-replicas.md.
"""

from collections import deque
from dataclasses import dataclass
from datetime import datetime

_MAX_SAMPLES = 3600
_PAGE_BYTES, _PAGE_HEADER_BYTES = 8192, 24


@dataclass(frozen=True, slots=True)
class _Sample:
    time: datetime
    position: int


class PrimaryPositions:
    """The newest samples, in bytes from the beginning of the WAL."""

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque(maxlen=_MAX_SAMPLES)
        self._first: int | None = None

    def add(self, time: datetime, position: int) -> None:
        """Note that all commits before the time are before the position."""
        if position % _PAGE_BYTES == _PAGE_HEADER_BYTES:
            # The next record will begin after the header of a new page. A replica counts no further than the page before.
            position -= _PAGE_HEADER_BYTES
        self._first = position if self._first is None else min(self._first, position)
        # While the primary is idle, the newest time of a position counts. After a failover, positions may be lower.
        while self._samples and self._samples[-1].position >= position:
            self._samples.pop()
        self._samples.append(_Sample(time, position))

    def complete_until(self, position: int) -> datetime | None:
        """The newest time before which all commits are at or before this position."""
        return next((it.time for it in reversed(self._samples) if it.position <= position), None)

    def has_replayed_start(self, position: int) -> bool:
        """Whether a replica at this position has all that the primary had at the first sample of this process.

        That includes the migrations that this version of the service needs.
        """
        return self._first is not None and self._first <= position
