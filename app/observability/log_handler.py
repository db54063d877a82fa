"""Writes log lines without waiting for a reader that has stopped reading."""

import io
import logging
import select
import time
from typing import TextIO

import structlog

# A short line is never written in part: a pipe that accepts bytes has a free page.
_WAIT_MILLISECONDS = 100
# Between two waits, so that a collector that reads slowly takes at most a tenth of the time.
_SECONDS_BETWEEN_WAITS = 1.0

log = structlog.get_logger("byok.logs")


class UnblockedHandler(logging.StreamHandler[TextIO]):
    """Drops lines while the collector of logs does not read from its pipe or socket, and that is full.

    A write would block the event loop, and with it every request, until the collector reads again. A pipe has 64 KiB, the lines
    of about 150 requests. When the stream accepts lines again, one of them has the number of those that are lost.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._dropped = 0
        self._poll = _poll_of(stream)
        self._next_wait_at = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line or drop it. A burst waits once for a slow reader."""
        if not self._accepts():
            self._drop()
            return
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            log.warning("log_lines_dropped", lines=dropped)  # through this handler too
        super().emit(record)

    def _accepts(self) -> bool:
        if self._poll is None or self._poll.poll(0):
            return True
        now = time.monotonic()
        if self._dropped or now < self._next_wait_at:
            return False
        self._next_wait_at = now + _SECONDS_BETWEEN_WAITS
        return bool(self._poll.poll(_WAIT_MILLISECONDS))

    def _drop(self) -> None:
        from app.observability.metrics import LOG_LINES_DROPPED  # noqa: PLC0415  # slow to import, and rarely needed

        self._dropped += 1
        LOG_LINES_DROPPED.inc()


def _poll_of(stream: TextIO) -> "select.poll | None":
    """A poll of whether the stream accepts bytes. None if it is only in memory."""
    try:
        number = stream.fileno()
    except io.UnsupportedOperation:
        return None
    poll = select.poll()
    poll.register(number, select.POLLOUT)
    return poll
