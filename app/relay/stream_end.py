"""The bytes that end a stream of events that was cut, so that an SDK raises an error instead of ending silently."""

from typing import Final

from app.relay.errors import RelayError, error_body

# Longest UTF-8 sequence without its last byte.
LAST_BYTES: Final = 3
_CONTINUATION: Final = b"\x80"
# After these lead bytes, 0x80 would be an overlong form, which is not valid.
_FIRST_CONTINUATIONS: Final = {0xE0: b"\xa0", 0xF0: b"\x90"}


def stream_end(last_bytes: bytes, error: RelayError, request_id: str) -> bytes:
    """Complete what is torn, then append `event: error`.

    Args:
        last_bytes: the last bytes that the client got, at least 3 if there are as many.
        error: what ended the stream.
        request_id: the response's.
    """
    torn = _rest_of_character(last_bytes)
    # Exactly one line end: two would dispatch the torn event, whose data is not JSON.
    line_end = b"\n" if torn or (last_bytes and not last_bytes.endswith((b"\n", b"\r\r"))) else b""
    return torn + line_end + b"event: error\ndata: " + error_body(error, request_id) + b"\n\n"


def _rest_of_character(last_bytes: bytes) -> bytes:
    """The bytes that complete a UTF-8 character which `last_bytes` ends within."""
    for length in range(1, min(LAST_BYTES, len(last_bytes)) + 1):
        lead = last_bytes[-length]
        if lead & 0xC0 == 0x80:  # noqa: PLR2004 # a continuation byte: the lead is further ahead
            continue
        missing = _sequence_length(lead) - length
        if missing <= 0:
            return b""
        if length == 1:
            return _FIRST_CONTINUATIONS.get(lead, _CONTINUATION) + _CONTINUATION * (missing - 1)
        return _CONTINUATION * missing
    return b""


def _sequence_length(lead: int) -> int:
    """How many bytes the character has that starts with this byte; 1 for ASCII and invalid bytes."""
    if 0xC2 <= lead <= 0xDF:  # noqa: PLR2004  # UTF-8's ranges
        return 2
    if 0xE0 <= lead <= 0xEF:  # noqa: PLR2004
        return 3
    if 0xF0 <= lead <= 0xF4:  # noqa: PLR2004
        return 4
    return 1
