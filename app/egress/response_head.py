"""Bounds what a peer may send before the head of its final response: informational responses (1xx) and that head."""

import re
from typing import Final

from app.egress.exceptions import ResponseTooLarge

# The end of a head: an empty line. h11 accepts a line feed as the end of a line.
_END = re.compile(rb"\n\r?\n")
_LONGEST_END = 3
_INFORMATIONAL = re.compile(rb"HTTP/\d\.\d 1(?!01)\d\d\b")
# A read of one byte costs as much work as a read of many, so each counts as at least this many bytes.
_MIN_READ_COST: Final = 64


class ResponseHeadLimit:
    """Follows the bytes of one response until its final head is complete.

    Args:
        max_bytes: the limit for all heads together.
        max_informational: the limit for informational responses.
    """

    __slots__ = ("_bytes_left", "_informational_left", "_is_complete", "_partial")

    def __init__(self, *, max_bytes: int, max_informational: int) -> None:
        self._bytes_left = max_bytes
        self._informational_left = max_informational
        self._partial = b""  # of the head that is being received
        self._is_complete = False

    def receive(self, data: bytes) -> None:
        """Count the bytes of one read.

        Raises:
            ResponseTooLarge
        """
        if self._is_complete:
            return
        self._bytes_left -= max(0, _MIN_READ_COST - len(data))
        searched = max(0, len(self._partial) - _LONGEST_END)
        self._partial += data
        while (end := _END.search(self._partial, searched)) is not None:
            self._end_head(end.end())
            searched = 0
        if self._bytes_left < len(self._partial):
            raise ResponseTooLarge

    def _end_head(self, length: int) -> None:
        """Remove a complete head. After the final one, ignore what follows."""
        self._bytes_left -= length
        self._is_complete = _INFORMATIONAL.match(self._partial) is None
        self._partial = b"" if self._is_complete else self._partial[length:]
        self._informational_left -= not self._is_complete
        if self._informational_left < 0:
            raise ResponseTooLarge
