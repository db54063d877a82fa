"""Splits a JSON batch into its events without decoding them, with bounded memory and time for any body."""

import asyncio
import re
from typing import Any

import msgspec

from app.core.errors import InvalidInput, MalformedJson
from app.core.time_slice import TimeSlice

MAX_EVENTS = 5000
# Larger than any valid event. Decoding an event takes time and memory in proportion to its size.
MAX_EVENT_BYTES = 256 * 1024

RawEvent = msgspec.Raw | memoryview

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
# An array with this many commas may have as many items, and msgspec makes an object for each. An array with more is
# split by a pattern, which stops after the largest allowed number of events.
_MAX_COMMAS = 200_000
# A valid event has a depth of 4.
_MAX_DEPTH = 32
# Turns every escaped surrogate (\ud800 to \udfff) into another escaped character. It changes no length and no syntax,
# because no keyword, number or delimiter of JSON contains a `d`.
_WITHOUT_SURROGATES = bytes.maketrans(b"dD", b"eE")

_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_OTHER = rb'[^"\[\]{}]++'
_BLANK = b" \t\r\n"


def _container(depth: int) -> bytes:
    """A pattern for an object or array of JSON that is known to be valid, with containers in it up to this depth."""
    inner = rb"|" + _container(depth - 1) if depth else b""
    return rb"[\[{](?:" + _OTHER + rb"|" + _STRING + inner + rb")*+[\]}]"


_ITEM = re.compile(rb'(?:[^"\[\]{},]++|' + _STRING + rb"|" + _container(_MAX_DEPTH) + rb")*+[,\]]", re.DOTALL)


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    events: msgspec.Raw


class _AnyEnvelope(msgspec.Struct):
    events: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


# These allocate no memory for what they skip: unknown fields, and the items of `events`.
_syntax_decoder = msgspec.json.Decoder(msgspec.Raw)
_envelope_decoder = msgspec.json.Decoder(_Envelope)
_any_envelope_decoder = msgspec.json.Decoder(_AnyEnvelope)
_items_decoder = msgspec.json.Decoder(list[msgspec.Raw])


async def split_batch(body: bytes) -> list[RawEvent]:
    """Return the events of a JSON batch, not decoded yet.

    Raises:
        MalformedJson, InvalidInput
    """
    array = await _events_array(body)
    await asyncio.sleep(0)  # for 16 MiB, each step takes a part of the time that the event loop may be used
    if bytes(array[:1]) != b"[":
        raise InvalidInput.invalid_field("events", "invalid_type", "Must be an array of events.")
    events: list[RawEvent] | None = None
    if body.count(b",") <= _MAX_COMMAS:
        events = _decode_items(array)
    if events is None:
        events = await _match_items(array)
    if len(events) > MAX_EVENTS:
        raise InvalidInput.of("events", "too_many_events", "A batch holds at most 5,000 events.")
    return events


async def _events_array(body: bytes) -> memoryview:
    """Return the bytes of `events`.

    Half of a surrogate pair is not text, but only its event must be rejected. So a batch that msgspec cannot read is
    read again without surrogates.
    """
    try:
        return memoryview(_envelope_decoder.decode(body).events)
    except msgspec.ValidationError:
        raise _envelope_error(body) from None
    except _UNREADABLE:
        pass
    await asyncio.sleep(0)
    readable = body.translate(_WITHOUT_SURROGATES)
    try:
        length = len(memoryview(_envelope_decoder.decode(readable).events))
    except _UNREADABLE:
        raise MalformedJson from None
    return _original(body, length)


def _original(body: bytes, length: int) -> memoryview:
    """Return the array of this length in the body as it was sent. `events` is the body's only field."""
    start = max(body.find(b"["), 0)
    if body[start + length :].strip(_BLANK) != b"}":
        raise MalformedJson  # `events` is repeated, or is not an array
    return memoryview(body)[start : start + length]


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
    return InvalidInput.of("body", "unknown_field", "Unknown field. Remove it.")


def _decode_items(array: memoryview) -> list[Any] | None:
    """Split the array, which has few commas. Returns None if it contains half of a surrogate pair."""
    try:
        return _items_decoder.decode(array)
    except _UNREADABLE:
        return None


async def _match_items(array: memoryview) -> list[RawEvent]:
    """Split an array that is valid JSON, of any size, but at most one item more than a batch may have.

    Raises:
        InvalidInput: an item is too large, or nested too deeply.
    """
    items: list[RawEvent] = []
    time_slice = TimeSlice()
    position, is_end = 1, False
    while not is_end and len(items) <= MAX_EVENTS:
        found = _ITEM.match(array, position, position + MAX_EVENT_BYTES)
        if found is None:
            raise InvalidInput.of(
                "events", "event_too_large", "An event has at most 256 KiB, and at most 32 levels of nesting."
            )
        item, is_end = array[position : found.end() - 1], found[0][-1:] == b"]"
        position = found.end()
        if not is_end or items or bytes(item).strip(_BLANK):
            items.append(item)
        await time_slice.pause_if_used()
    return items
