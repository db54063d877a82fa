"""Reads the usage from a response that passes by, without holding it back.

A meter never raises and never changes a byte: what it cannot read, it does not count.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import msgspec
from msgspec import Raw, Struct

_Json: TypeAlias = dict[str, Any]

MAX_EVENT_BYTES: Final = 1024 * 1024
MAX_JSON_BYTES: Final = 8 * 1024 * 1024
# Larger than any valid one. Decoded, it may take thirty times the memory.
MAX_USAGE_BYTES: Final = 64 * 1024
MAX_TEXT_BYTES: Final = 4096
# More than a message has. The content of a body with more is not decoded, because each of them may become an object.
MAX_BRACES: Final = 100_000
# More than the models that may be tried.
MAX_FALLBACKS: Final = 16
BYTES_PER_TOKEN: Final = 4


class UsageSource(StrEnum):
    """Whether the provider reported the final usage, or the relay estimated it."""

    REPORTED = "reported"
    ESTIMATED = "estimated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metered:
    """What was read so far.

    Args:
        usage: Anthropic's usage object; None before the first one was read. If `source` is `estimated`, its `output_tokens` come from the bytes received.
        source: `reported` only after a `message_delta`, or for a whole message in JSON.
        model: the model of the response.
        message_id: the provider's id of the message.
        stop_reason: why the model stopped.
        refusal_category: the category of the refusal that ended the response, or after which another model continued.
        is_complete: `message_stop` was received, or the JSON body was a whole message.
        error_type: `error.type` of an `event: error`, or of an error body in JSON.
        error_code: `error.details.error_code` of the same.
        delta_bytes: bytes of text, thinking and tool input in the deltas.
    """

    usage: Mapping[str, Any] | None = None
    source: UsageSource = UsageSource.ESTIMATED
    model: str | None = None
    message_id: str | None = None
    stop_reason: str | None = None
    refusal_category: str | None = None
    is_complete: bool = False
    error_type: str | None = None
    error_code: str | None = None
    delta_bytes: int = 0

    @property
    def saw_message_delta(self) -> bool:
        """Whether the usage is the provider's own final word so far."""
        return self.source is UsageSource.REPORTED

    @property
    def has_error(self) -> bool:
        return self.error_type is not None


class UsageMeter(Protocol):
    """Follows the bytes of one response."""

    def feed(self, chunk: bytes) -> None:
        """Count the bytes of one read."""

    def result(self) -> Metered:
        """What was read so far. May be called at any time."""


class JsonMeter:
    """Meters a response in JSON: keeps up to 8 MiB and decodes them when the result is asked for."""

    def __init__(self) -> None:
        self._body = bytearray()
        self._is_too_large = False
        self._metered: Metered | None = None

    def feed(self, chunk: bytes) -> None:
        self._metered = None
        if self._is_too_large or len(self._body) + len(chunk) > MAX_JSON_BYTES:
            self._is_too_large = True
            self._body.clear()
            return
        self._body += chunk

    def result(self) -> Metered:
        if self._metered is None:
            self._metered = self._decoded()
        return self._metered

    def _decoded(self) -> Metered:
        body = _fields(self._body)
        if body is None:
            return Metered()
        error_type, error_code = _error_of(body)
        usage = _usage(body.usage)
        return Metered(
            usage=usage,
            source=UsageSource.ESTIMATED if usage is None else UsageSource.REPORTED,
            model=_text(body.model),
            message_id=_text(body.id),
            stop_reason=_text(body.stop_reason),
            refusal_category=_category(body.stop_details) or self._fallback_category(body.content),
            is_complete=_text(body.type) == "message",
            error_type=error_type,
            error_code=error_code,
        )

    def _fallback_category(self, content: Raw) -> str | None:
        if _FALLBACK not in self._body or self._body.count(b"{") > MAX_BRACES:
            return None
        blocks = (it for it in _decoded(content, list[_Block]) or () if it.is_fallback)
        return next((it for block in islice(blocks, MAX_FALLBACKS) if (it := _category(block.trigger))), None)


class SseMeter:
    """Meters a stream of server-sent events, over any chunking.

    It decodes only the events that carry usage or end the stream. It counts the payload bytes of the deltas, which are
    nearly all events.
    """

    def __init__(self) -> None:
        self._unfinished = bytearray()
        self._is_skipping = False
        self._model: str | None = None
        self._message_id: str | None = None
        self._usage: _Json | None = None
        self._saw_delta = False
        self._stop_reason: str | None = None
        self._refusal_category: str | None = None
        self._is_complete = False
        self._error: tuple[str | None, str | None] = (None, None)
        self._delta_bytes = 0

    def feed(self, chunk: bytes) -> None:
        if not self._unfinished and _is_one_delta(chunk):  # nearly every read
            self._delta_bytes += _payload_length(chunk)
        else:
            self._feed(chunk)

    def _feed(self, chunk: bytes) -> None:
        data: bytes | bytearray = chunk
        if self._unfinished:
            self._unfinished += chunk
            data = self._unfinished
        start, searched = 0, max(0, len(data) - len(chunk) - _LONGEST_BOUNDARY + 1)
        has_carriage_return = data.find(b"\r", searched) >= 0
        while (boundary := _boundary(data, searched, has_carriage_return=has_carriage_return)) is not None:
            if not self._is_skipping:
                self._event(bytes(data[start : boundary[0]]))
            self._is_skipping = False
            start = searched = boundary[1]
        if start or data is chunk:
            self._unfinished = bytearray(data[start:])
        if self._is_skipping or len(self._unfinished) > MAX_EVENT_BYTES:
            self._is_skipping = bool(self._unfinished)
            del self._unfinished[:-_LONGEST_BOUNDARY]

    def _event(self, event: bytes) -> None:
        if not event:
            return
        if event.startswith(_DELTA_EVENT):
            self._delta_bytes += _payload_length(event)
            return
        name, data = _parsed(event)
        if name == b"content_block_delta":
            self._delta_bytes += _payload_length(data)
        elif (name in _DECODED_EVENTS or (name == _BLOCK_START and _FALLBACK in data)) and (
            body := _fields(data)
        ) is not None:
            self._decoded_event(name, body)

    def _decoded_event(self, name: bytes, body: "_Fields") -> None:
        match name:
            case b"message_start":
                message = _fields(body.message) or _Fields()
                self._model, self._message_id = _text(message.model), _text(message.id)
                self._usage = _usage(message.usage)
            case b"message_delta":
                self._overwrite(_usage(body.usage))
                delta = _fields(body.delta) or _Fields()
                self._stop_reason = _text(delta.stop_reason) or self._stop_reason
                self._refusal_category = _category(delta.stop_details) or self._refusal_category
            case b"content_block_start":
                block = _decoded(body.content_block, _Block)
                if block is not None and block.is_fallback:
                    self._refusal_category = self._refusal_category or _category(block.trigger)
            case b"message_stop":
                self._is_complete = True
            case _:
                self._error = _error_of(body)

    def _overwrite(self, usage: _Json | None) -> None:
        """Overwrite each field that is present and not null. Never add: the counters are cumulative."""
        if usage is None:
            return
        self._usage = (self._usage or {}) | {
            name: value for name, value in usage.items() if value is not None
        }
        self._saw_delta = True

    def result(self) -> Metered:
        usage, source = self._usage, UsageSource.REPORTED
        if not self._saw_delta:
            source = UsageSource.ESTIMATED
            if usage is not None:  # the output of message_start is a placeholder
                usage = usage | {"output_tokens": max(1, self._delta_bytes // BYTES_PER_TOKEN)}
        error_type, error_code = self._error
        return Metered(
            usage=usage,
            source=source,
            model=self._model,
            message_id=self._message_id,
            stop_reason=self._stop_reason,
            refusal_category=self._refusal_category,
            is_complete=self._is_complete,
            error_type=error_type,
            error_code=error_code,
            delta_bytes=self._delta_bytes,
        )


# An empty line. A boundary may be split over chunks; this is the longest one.
_BOUNDARY: Final = re.compile(rb"\n\r?\n|\r\r")
_LONGEST_BOUNDARY: Final = 3
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_DELTA_EVENT: Final = b"event: content_block_delta\n"
_BLOCK_START: Final = b"content_block_start"
_DECODED_EVENTS: Final = frozenset({b"message_start", b"message_delta", b"message_stop", b"error"})
# The content block that names the model which continues; its `trigger` has the category of the refusal.
_FALLBACK: Final = b'"fallback"'
# The keys of a delta's text, first as Anthropic writes them, then with any white space.
_PAYLOADS: Final = (b'"text":"', b'"partial_json":"', b'"thinking":"')
_STRING: Final = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_PAYLOAD: Final = re.compile(rb'"(?:text|thinking|partial_json)"\s*:\s*"')


def _is_one_delta(chunk: bytes) -> bool:
    return chunk.startswith(_DELTA_EVENT) and chunk.find(b"\n\n") == len(chunk) - 2 and b"\r" not in chunk


def _boundary(data: bytes | bytearray, searched: int, *, has_carriage_return: bool) -> tuple[int, int] | None:
    """Start and end of the next boundary. A plain search is ten times as fast as the regular expression."""
    if not has_carriage_return:
        start = data.find(b"\n\n", searched)
        return None if start < 0 else (start, start + 2)
    found = _BOUNDARY.search(data, searched)
    return None if found is None else found.span()


def _payload_length(event: bytes) -> int:
    """How many bytes of JSON text a delta carries. Signatures are not output that anyone pays for by length."""
    delta = event.find(b'"delta"') + 1
    for key in _PAYLOADS:
        start = event.find(key, delta)
        if start >= 0:
            return _string_length(event, start + len(key))
    payload = _PAYLOAD.search(event, delta)
    return 0 if payload is None else _string_length(event, payload.end())


def _string_length(event: bytes, start: int) -> int:
    """How many bytes there are to the quotation mark that ends the string."""
    string = _STRING.match(event, start)
    return 0 if string is None else string.end() - start


def _parsed(event: bytes) -> tuple[bytes, bytes]:
    """Name and data of an event. Without a name, which an SDK would ignore, the data's `type` counts."""
    name, data = b"", []
    for line in _LINE_END.split(event):
        field, _, value = line.partition(b":")
        if field == b"event":
            name = value.removeprefix(b" ")
        elif field == b"data":
            data.append(value.removeprefix(b" "))
    joined = b"\n".join(data)
    if not name and joined:
        name = (_text((_fields(joined) or _Fields()).type) or "").encode()
    return name, joined


class _Fields(Struct):
    """The fields of all objects that are read. A provider may send any JSON, so all other fields stay undecoded."""

    type: Raw = Raw()
    message: Raw = Raw()
    delta: Raw = Raw()
    usage: Raw = Raw()
    id: Raw = Raw()
    model: Raw = Raw()
    stop_reason: Raw = Raw()
    stop_details: Raw = Raw()
    content: Raw = Raw()
    content_block: Raw = Raw()
    category: Raw = Raw()
    error: Raw = Raw()
    details: Raw = Raw()
    error_code: Raw = Raw()


class _Block(Struct):
    """A content block, of which there may be many. `trigger` of a fallback is the refusal that made another model continue."""

    type: Raw = Raw()
    trigger: Raw = Raw()

    @property
    def is_fallback(self) -> bool:
        return bytes(self.type) == _FALLBACK


_Kind = TypeVar("_Kind")


def _decoded(text: bytes | bytearray | Raw, kind: type[_Kind]) -> _Kind | None:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _fields(text: bytes | bytearray | Raw) -> _Fields | None:
    """The fields of a JSON object, or None."""
    return _decoded(text, _Fields) if text else None


def _usage(value: Raw) -> _Json | None:
    return _decoded(value, _Json) if 0 < len(value) <= MAX_USAGE_BYTES else None


def _text(value: Raw) -> str | None:
    return _decoded(value, str) if 0 < len(value) <= MAX_TEXT_BYTES else None


def _category(stop_details: Raw) -> str | None:
    """The category of a refusal, from an object like `{"type": "refusal", "category": "bio"}`."""
    return _text((_fields(stop_details) or _Fields()).category)


def _error_of(body: _Fields) -> tuple[str | None, str | None]:
    """`error.type` and `error.details.error_code` of an error; an error without a type is one all the same."""
    if _text(body.type) != "error":
        return None, None
    error = _fields(body.error) or _Fields()
    return _text(error.type) or "error", _text((_fields(error.details) or _Fields()).error_code)
