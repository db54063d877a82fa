"""Decodes one event from bytes into a domain type, or says with a stable code why it is not valid.

msgspec decodes a batch of 1,000 events in a few milliseconds (docs/explanation/adr/0016-usage-event-keys.md). Only an
event that its strict decoder does not accept is decoded again, field by field. Values that no field may have, such as
lists of objects, are never decoded: an event may contain more objects than the service should create.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, NamedTuple, get_type_hints

import msgspec

from app.core.keys.key_lookalike import looks_like_key, may_look_like_key
from app.core.visible_text import is_blank, normalize
from app.usage_events.anthropic_usage import (
    MAX_EVENT_ITERATIONS,
    UsageObject,
    has_counters,
    has_message_counters,
    has_tokens,
)
from app.usage_events.events import MAX_DIMENSION_LENGTH, EventCode, EventId, UsageEvent
from app.usage_events.records import UsageFlag
from app.usage_events.usage_reader import (
    ITERATIONS,
    NOT_A_SCALAR,
    UsageRejected,
    has_foreign_cache_counters,
    has_foreign_counters,
    has_foreign_details,
    has_unknown_time_to_live,
    is_short_text,
    known_fields,
    normalize_usage,
    read_scalar,
)

# Larger than an NDJSON line. A larger object is counted, but not stored.
MAX_KEPT_USAGE_BYTES = 64 * 1024

_DIGEST_BYTES = 16
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_event_decoder = msgspec.json.Decoder(UsageEvent)
_event_id_decoder = msgspec.json.Decoder(EventId)
_any_json = msgspec.json.Decoder()
_encoder = msgspec.json.Encoder()
_TYPE_HINTS = get_type_hints(UsageEvent, include_extras=True)
_FIELDS = {field.name: field for field in msgspec.structs.fields(UsageEvent)}
# Without objects for unknown fields, and without decoding values: an event may contain more of them than the service
# should create.
_RAW_FIELDS = [(name, msgspec.Raw | msgspec.UnsetType, msgspec.UNSET) for name in _FIELDS]
_fields_decoder = msgspec.json.Decoder(msgspec.defstruct("_RawFields", _RAW_FIELDS, gc=False))
_known_fields_decoder = msgspec.json.Decoder(
    msgspec.defstruct("_KnownRawFields", _RAW_FIELDS, gc=False, forbid_unknown_fields=True)
)
# An event with more objects is not decoded before its iterations are counted.
_MANY_OBJECTS = 2048
# Free-text fields. They are stored and displayed.
_TEXT_FIELDS = (
    "event_id",
    "model",
    "endpoint_id",
    "feature",
    "session_id",
    "prompt_id",
    "provider_request_id",
    "corrects",
)
# Texts by which usage is grouped, filtered and limited. A model is one too, but stays as it is: a price is known only for
# the exact id.
_DIMENSIONS = ("endpoint_id", "feature", "session_id", "prompt_id")
_USAGE_TEXT_FIELDS = ("service_tier", "speed", "inference_geo")
_REFUSAL_FIELDS = ("stop_reason", "refusal_category")
_TIMESTAMPS = ("started_at", "completed_at")
_LONG_FRACTION = re.compile(rb"\.\d{7}")
_BELOW_MICROSECONDS = re.compile(r"(\.\d{6})\d+", re.ASCII)
_FIRST_PRINTABLE = " "
_BACKSLASH = ord("\\")
_FIELD_IGNORED = int(UsageFlag.USAGE_FIELD_IGNORED)
_NOT_KEPT = int(UsageFlag.USAGE_NOT_KEPT)


class _UsageField(msgspec.Struct, gc=False):
    usage: msgspec.Raw


_usage_decoder = msgspec.json.Decoder(_UsageField)


class DecodedEvent(NamedTuple):
    """A well-formed event, the digest of its content, its usage object as sent, and flags for what was left out."""

    event: UsageEvent
    digest: bytes
    usage: bytes | None
    flags: int


class EventRejected(Exception):
    """The event is not valid. There is no `event_id` if a response must not repeat it."""

    def __init__(self, code: str, fields: Sequence[str] = (), *, event_id: str | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.fields = tuple(fields)
        self.event_id = event_id


def decode_event(raw: bytes | memoryview) -> DecodedEvent:
    """Decode one event.

    Raises:
        EventRejected
    """
    event, flags = _decode(raw)
    if len(event.usage.iterations or ()) > MAX_EVENT_ITERATIONS:
        raise _rejection(event, EventCode.INVALID_USAGE, [ITERATIONS])
    has_unusual_text = _needs_text_check(raw)
    if has_unusual_text:
        _reject_bad_text(event)
        if not _has_plain_conditions(event):
            event, flags = _decode_leniently(raw)
    usage = bytes(_usage_decoder.decode(raw).usage)
    if not has_message_counters(event.usage) and (
        not has_counters(event.usage) or has_foreign_counters(usage, of="any")
    ):
        raise _rejection(event, EventCode.USAGE_UNRECOGNIZED, known_fields(usage))
    later_flags = _FIELD_IGNORED if _has_doubtful_total(event.usage, usage) else 0
    if not _is_in_utc(event.started_at) or not _is_in_utc(event.completed_at):
        event = _convert_to_utc(event)
    kept: bytes | None = usage
    if len(usage) > MAX_KEPT_USAGE_BYTES or (has_unusual_text and _contains_key(usage)):
        kept, flags = None, flags | _NOT_KEPT
    content = _encoder.encode(event) + (flags.to_bytes(4) if flags else b"")
    digest = blake2b(content, digest_size=_DIGEST_BYTES).digest()
    # After the digest: a client that repeats an event after an upgrade must not get a conflict.
    return DecodedEvent(_normalize_dimensions(event), digest, kept, flags | later_flags)


def _has_doubtful_total(usage: UsageObject, raw: bytes) -> bool:
    """Whether the cost may be too high or too low, because of tokens that are counted under other names."""
    return (
        has_foreign_details(raw)
        or has_unknown_time_to_live(raw)
        or (not has_tokens(usage, "input_tokens") and has_foreign_counters(raw, of="input"))
        or (not has_tokens(usage, "output_tokens") and has_foreign_counters(raw, of="output"))
        or has_foreign_cache_counters(raw)
    )


def _decode(raw: bytes | memoryview) -> tuple[UsageEvent, int]:
    # The strict decoder rounds fractions, which may move an instant into the next day, with other prices.
    if not _LONG_FRACTION.search(raw) and (
        len(raw) <= _MANY_OBJECTS or bytes(raw).count(b"{") <= _MANY_OBJECTS
    ):
        with suppress(*UNREADABLE):
            return _event_decoder.decode(raw), 0
    return _decode_leniently(raw)


def _decode_leniently(raw: bytes | memoryview) -> tuple[UsageEvent, int]:
    """Decode an event without the optional fields that have an unexpected form.

    Raises:
        EventRejected
    """
    found = _read_fields(raw)
    if _has_unknown_fields(raw):
        raise EventRejected(EventCode.UNKNOWN_FIELD, event_id=_printable_event_id(found))
    try:
        candidate, flags, rejected_field = _candidate(found)
    except UNREADABLE:
        raise EventRejected(EventCode.MALFORMED_JSON) from None
    try:
        event = msgspec.convert(candidate, UsageEvent)
    except (msgspec.ValidationError, RecursionError):
        code = _rejection_code(candidate)
        fields = _missing_fields(candidate) if code == EventCode.REQUIRED else []
        if rejected_field is not None and code == EventCode.INVALID_USAGE:
            fields = [rejected_field]
        raise EventRejected(code, fields, event_id=_printable_event_id(found)) from None
    return event, flags


def _read_fields(raw: bytes | memoryview) -> Mapping[str, msgspec.Raw]:
    try:
        found = _fields_decoder.decode(raw)
    except msgspec.ValidationError:
        raise EventRejected(EventCode.INVALID_EVENT) from None
    except UNREADABLE:
        raise EventRejected(EventCode.MALFORMED_JSON) from None
    return {name: it for name in _FIELDS if (it := getattr(found, name)) is not msgspec.UNSET}


def _has_unknown_fields(raw: bytes | memoryview) -> bool:
    """Whether an object that could be read has them. Stops at the first one."""
    try:
        _known_fields_decoder.decode(raw)
    except UNREADABLE:
        return True
    return False


def _candidate(found: Mapping[str, msgspec.Raw]) -> tuple[dict[str, Any], int, str | None]:
    """Return the fields of an event for the strict types, flags, and the field that makes the usage object invalid.

    Raises:
        DecodeError, UnicodeDecodeError, RecursionError: a field is not valid JSON.
    """
    candidate: dict[str, Any] = {name: read_scalar(it) for name, it in found.items() if name != "usage"}
    flags, rejected_field = 0, None
    for name in _TIMESTAMPS:
        if isinstance(candidate.get(name), str):
            candidate[name] = _BELOW_MICROSECONDS.sub(r"\1", candidate[name])
    for name in _REFUSAL_FIELDS:
        if candidate.get(name) is not None and not is_short_text(candidate[name]):
            del candidate[name]
            flags |= _FIELD_IGNORED
    if "usage" in found:
        try:
            candidate["usage"], usage_flags = normalize_usage(
                found["usage"], max_iterations=MAX_EVENT_ITERATIONS
            )
            flags |= usage_flags
        except UsageRejected as error:
            candidate["usage"] = NOT_A_SCALAR
            rejected_field = error.field
    return candidate, flags, rejected_field


def _rejection_code(candidate: Mapping[str, Any]) -> str:
    """Return the code for an object that is not a valid event. Codes contain only our field names, never the input."""
    for name, field in _FIELDS.items():
        if name not in candidate:
            if field.required:
                return EventCode.REQUIRED
            continue
        try:
            msgspec.convert(candidate[name], _TYPE_HINTS[name])
        except (msgspec.ValidationError, RecursionError):
            return f"invalid_{name}"
    return EventCode.INVALID_EVENT


def _missing_fields(candidate: Mapping[str, Any]) -> list[str]:
    return [name for name, field in _FIELDS.items() if field.required and name not in candidate]


def _rejection(event: UsageEvent, code: str, fields: Sequence[str] = ()) -> EventRejected:
    event_id = None if looks_like_key(event.event_id) else event.event_id
    return EventRejected(code, fields, event_id=event_id)


def _needs_text_check(raw: bytes | memoryview) -> bool:
    """Whether the raw event contains an escape (the only way to send control characters) or perhaps a key."""
    text = bytes(raw)
    return _BACKSLASH in text or may_look_like_key(text)


def _reject_bad_text(event: UsageEvent) -> None:
    texts = [(name, getattr(event, name)) for name in _TEXT_FIELDS]
    shown = [getattr(event.usage, name) for name in _USAGE_TEXT_FIELDS]
    shown += [getattr(event, name) for name in _REFUSAL_FIELDS]
    shown += [it.model for it in event.usage.iterations or ()]
    if any(text is not None and looks_like_key(text) for text in (*(it for _, it in texts), *shown)):
        raise _rejection(event, EventCode.LOOKS_LIKE_KEY)
    for name, text in texts:
        if text is not None and not _is_plain(normalize(text) if name in _DIMENSIONS else text):
            raise _rejection(event, f"invalid_{name}")


def _normalize_dimensions(event: UsageEvent) -> UsageEvent:
    """Give every dimension the spelling in which filters and limits look for it.

    Raises:
        EventRejected: a dimension has no visible character.
    """
    model = normalize(event.model)
    if model is not event.model and (is_blank(model) or looks_like_key(model)):
        raise _rejection(event, "invalid_model")
    changed: dict[str, str] = {}
    for name in _DIMENSIONS:
        text: str | None = getattr(event, name)
        if text is None or (normalized := normalize(text)) is text:
            continue
        if is_blank(normalized) or len(normalized) > MAX_DIMENSION_LENGTH or looks_like_key(normalized):
            raise _rejection(event, f"invalid_{name}")
        changed[name] = normalized
    return msgspec.structs.replace(event, **changed) if changed else event


def _has_plain_conditions(event: UsageEvent) -> bool:
    """Whether the optional texts contain no control characters, which a database cannot store."""
    texts = [getattr(event.usage, name) for name in _USAGE_TEXT_FIELDS]
    texts += [getattr(event, name) for name in _REFUSAL_FIELDS]
    texts += [it.model for it in event.usage.iterations or ()]
    return all(text is None or _is_plain(text) for text in texts)


def _is_plain(text: str) -> bool:
    return min(text, default=_FIRST_PRINTABLE) >= _FIRST_PRINTABLE


def _contains_key(usage: bytes) -> bool:
    """Whether a text anywhere in the object looks like a key, also if it is written with escapes, or cannot be read."""
    try:
        return looks_like_key(_encoder.encode(_any_json.decode(usage)).decode())
    except UNREADABLE:
        return True


def _printable_event_id(found: Mapping[str, msgspec.Raw]) -> str | None:
    """Return the event id if a response may repeat it: it is well-formed and does not look like a key."""
    try:
        event_id: str = _event_id_decoder.decode(found.get("event_id", b""))
    except UNREADABLE:
        return None
    return None if looks_like_key(event_id) else event_id


def _is_in_utc(instant: datetime | None) -> bool:
    return instant is None or instant.tzinfo is UTC


def _convert_to_utc(event: UsageEvent) -> UsageEvent:
    """Convert both timestamps to UTC, so that equal events have equal digests.

    Raises:
        EventRejected: a timestamp has no UTC representation (year 1 or 9999).
    """
    converted: dict[str, datetime] = {}
    for name in _TIMESTAMPS:
        instant: datetime | None = getattr(event, name)
        if instant is None:
            continue
        try:
            converted[name] = instant.astimezone(UTC)
        except OverflowError:
            raise _rejection(event, f"invalid_{name}") from None
    return msgspec.structs.replace(event, **converted)
