"""Splits a JSON batch into its events without decoding them, in short steps, with bounded memory and time for any body."""

import re
from collections.abc import Generator
from typing import Final

import msgspec

from app.core.errors import InvalidInput, MalformedJson
from app.core.event_loop import in_slices
from app.usage_events.value_scanner import BatchBody, end_of_value, skip_blank

MAX_EVENTS = 5000
# Larger than any valid event. Decoding an event takes time and memory in proportion to its size.
MAX_EVENT_BYTES = 256 * 1024
# An invalid envelope of this size is judged as a whole, which takes about 1 ms. A larger one is rejected at the first proof.
_JUDGED_BYTES: Final = 256 * 1024
# A pattern finds the end of an item of this size in one step.
_STEP_BYTES: Final = 32 * 1024
_LONGEST_NAME: Final = 256

# The bytes of an event as they were sent, or None for one that is larger than `MAX_EVENT_BYTES`.
RawEvent = memoryview | None
_Steps = Generator[None, None, list[RawEvent]]

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
# A valid event has a depth of 4.
_MAX_DEPTH = 32
# Turns every escaped surrogate (\ud800 to \udfff) into another escaped character. It changes no length and no syntax,
# because no keyword, number or delimiter of JSON contains a `d`.
_WITHOUT_SURROGATES = bytes.maketrans(b"dD", b"eE")

_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_OTHER = rb'[^"\[\]{}]++'
_COMMA, _ARRAY_START, _ARRAY_END = b",[]"
_NAME = re.compile(_STRING, re.DOTALL)


def _container(depth: int) -> bytes:
    """A pattern for an object or array whose syntax is checked later, with containers in it up to this depth."""
    inner = rb"|" + _container(depth - 1) if depth else b""
    return rb"[\[{](?:" + _OTHER + rb"|" + _STRING + inner + rb")*+[\]}]"


_ITEM = re.compile(rb'(?:[^"\[\]{},]++|' + _STRING + rb"|" + _container(_MAX_DEPTH) + rb")*+[,\]]", re.DOTALL)


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    events: msgspec.Raw


class _AnyEnvelope(msgspec.Struct):
    events: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


# These allocate no memory for what they skip.
_syntax_decoder = msgspec.json.Decoder(msgspec.Raw)
_envelope_decoder = msgspec.json.Decoder(_Envelope)
_any_envelope_decoder = msgspec.json.Decoder(_AnyEnvelope)
_name_decoder = msgspec.json.Decoder(str)


class _InvalidEnvelope(Exception):
    """The body is not an object with `events` as its only field. `error` states the first proof."""

    def __init__(self, error: InvalidInput | MalformedJson) -> None:
        super().__init__("invalid envelope")
        self.error = error


async def split_batch(body: BatchBody) -> list[RawEvent]:
    """Return the events of a JSON batch, not decoded yet.

    No step takes longer than about 2 ms, because the syntax of each event is checked by itself: one call of the parser
    for 16 MiB takes 40 ms, in which no other request goes on. The contents of an event that is too large are not checked.

    Raises:
        MalformedJson, InvalidInput
    """
    try:
        return await in_slices(_split(body))
    except _InvalidEnvelope as invalid:
        error = invalid.error
    if len(body) <= _JUDGED_BYTES:
        error = _judge(bytes(body)) or error
    raise error


def _split(body: BatchBody) -> _Steps:
    view, items = memoryview(body), list[RawEvent]()
    position = yield from _array_start(body)
    first = yield from skip_blank(body, position)
    if body[first : first + 1] == b"]":
        yield from _require_end(body, first + 1)
        return items
    is_end = False
    while not is_end:
        if len(items) == MAX_EVENTS:
            raise InvalidInput.of("events", "too_many_events", "A batch holds at most 5,000 events.")
        start = yield from skip_blank(body, position)
        end = yield from _end_of_item(body, start)
        delimiter = yield from skip_blank(body, end)
        if delimiter >= len(body) or body[delimiter] not in (_COMMA, _ARRAY_END):
            raise MalformedJson
        items.append(view[start:end] if end - start <= MAX_EVENT_BYTES else None)
        _require_json(items[-1])
        position, is_end = delimiter + 1, body[delimiter] == _ARRAY_END
        yield
    yield from _require_end(body, position)
    return items


def _end_of_item(body: BatchBody, start: int) -> Generator[None, None, int]:
    found = _ITEM.match(body, start, start + _STEP_BYTES)
    if found is not None:
        return found.end() - 1
    yield
    # It is larger, nested more deeply, or malformed.
    return (yield from end_of_value(body, start))


def _array_start(body: BatchBody) -> Generator[None, None, int]:
    """Return the position after `{"events":[`."""
    position = yield from skip_blank(body, 0)
    if body[position : position + 1] != b"{":
        raise _InvalidEnvelope(InvalidInput.invalid_field("body", "invalid_type", "Must be an object."))
    position = yield from skip_blank(body, position + 1)
    if body[position : position + 1] == b"}":
        raise _InvalidEnvelope(InvalidInput.invalid_field("events", "required", "This field is required."))
    is_events, position = yield from _name(body, position)
    if not is_events:
        raise _InvalidEnvelope(_unknown_field())
    position = yield from skip_blank(body, position)
    if body[position : position + 1] != b"[":
        raise _InvalidEnvelope(
            InvalidInput.invalid_field("events", "invalid_type", "Must be an array of events.")
        )
    return position + 1


def _name(body: BatchBody, position: int) -> Generator[None, None, tuple[bool, int]]:
    """Return whether the name that begins here is `events`, and the position after its colon."""
    name = _NAME.match(body, position, position + _LONGEST_NAME)
    if name is None:
        raise _InvalidEnvelope(MalformedJson())
    position = yield from skip_blank(body, name.end())
    if body[position : position + 1] != b":":
        raise _InvalidEnvelope(MalformedJson())
    try:
        return _name_decoder.decode(name[0]) == "events", position + 1
    except _UNREADABLE:
        raise _InvalidEnvelope(MalformedJson()) from None


def _require_end(body: BatchBody, position: int) -> Generator[None, None, None]:
    """Require that nothing but the end of the object follows the array. `events` twice is malformed."""
    position = yield from skip_blank(body, position)
    if body[position : position + 1] == b"}":
        position = yield from skip_blank(body, position + 1)
        if position == len(body):
            return
    if body[position : position + 1] == b",":
        position = yield from skip_blank(body, position + 1)
        is_events, _ = yield from _name(body, position)
        if not is_events:
            raise _InvalidEnvelope(_unknown_field())
    raise _InvalidEnvelope(MalformedJson())


def _require_json(item: RawEvent) -> None:
    """Check the syntax of an item.

    Half of a surrogate pair is not text, but only its event must be rejected. So an item that msgspec cannot read is
    read again without surrogates.
    """
    if item is None:
        return
    try:
        _syntax_decoder.decode(item)
    except _UNREADABLE:
        try:
            _syntax_decoder.decode(bytes(item).translate(_WITHOUT_SURROGATES))
        except _UNREADABLE:
            raise MalformedJson from None


def _judge(body: bytes) -> InvalidInput | MalformedJson | None:
    """Return what is wrong with an envelope as a whole: malformed JSON anywhere comes first."""
    try:
        _envelope_decoder.decode(body)
    except msgspec.ValidationError:
        return _envelope_error(body)
    except _UNREADABLE:
        return MalformedJson()
    return None


def _envelope_error(body: bytes) -> InvalidInput | MalformedJson:
    try:
        _syntax_decoder.decode(body)
        found = _any_envelope_decoder.decode(body).events
    except msgspec.ValidationError:
        return InvalidInput.invalid_field("body", "invalid_type", "Must be an object.")
    except _UNREADABLE:
        return MalformedJson()
    if found is msgspec.UNSET:
        try:
            _envelope_decoder.decode(body)
        except msgspec.ValidationError as error:
            if "unknown field" not in str(error):
                return InvalidInput.invalid_field("events", "required", "This field is required.")
    return _unknown_field()


def _unknown_field() -> InvalidInput:
    return InvalidInput.of("body", "unknown_field", "Unknown field. Remove it.")
