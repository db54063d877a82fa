"""Events as they come in: bytes straight to records of the domain, and a code for what is none.

Decoded by msgspec: a batch of a thousand takes it a few milliseconds (docs/adr/0016-usage-event-keys.md).
"""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, get_type_hints

import msgspec

from app.core.api_key import looks_like_key
from app.core.errors import InvalidInput, MalformedJson
from app.usage.events import LONGEST_EVENT_ID, EventBatch, EventCode, EventStatus, NotAccepted, UsageEvent

MOST_EVENTS = 5000

_DIGEST_BYTES = 16
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_event = msgspec.json.Decoder(UsageEvent)
_anything = msgspec.json.Decoder()
_content = msgspec.json.Encoder()
_HINTS = get_type_hints(UsageEvent, include_extras=True)
_FIELDS = {field.name: field for field in msgspec.structs.fields(UsageEvent)}
# Fields of free text, which are kept and shown.
_TEXTS = ("event_id", "model", "endpoint_id", "feature", "session_id", "prompt_id", "provider_request_id")
_USAGE_TEXTS = ("service_tier", "speed", "inference_geo")
_FIRST_PRINTABLE = " "


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    events: list[msgspec.Raw]


_envelope = msgspec.json.Decoder(_Envelope)


class EventReader:
    """Reads the events of one request; what is none is noted with its code.

    Args:
        first_index: where the next event stands in the request.
    """

    def __init__(self, first_index: int = 0) -> None:
        self.next_index = first_index
        self.refused: list[NotAccepted] = []
        self._events: list[UsageEvent] = []
        self._digests: list[bytes] = []
        self._indexes: list[int] = []

    def read(self, raws: Iterable[bytes | memoryview]) -> None:
        """Take the next events. Blank ones count, and are nothing."""
        for raw in raws:
            index = self.next_index
            self.next_index += 1
            if not raw or (len(raw) < _SHORTEST and not bytes(raw).strip()):
                continue
            try:
                event = _event.decode(raw)
            except _UNREADABLE:
                self._refuse(index, raw)
                continue
            if _may_hide_something(raw) and (code := _flaw_of(event)) is not None:
                self._refuse(index, raw, code)
                continue
            if not _is_in_utc(event.started_at) or not _is_in_utc(event.completed_at):
                try:
                    event = _in_utc(event)
                except OverflowError:
                    self._refuse(index, raw, _out_of_range(event))
                    continue
            self._events.append(event)
            self._digests.append(blake2b(_content.encode(event), digest_size=_DIGEST_BYTES).digest())
            self._indexes.append(index)

    def batch(self) -> EventBatch:
        """What was read, once."""
        batch = EventBatch(events=self._events, digests=self._digests, indexes=self._indexes)
        self._events, self._digests, self._indexes = [], [], []
        return batch

    def _refuse(self, index: int, raw: bytes | memoryview, code: str | None = None) -> None:
        try:
            found = _anything.decode(raw)
        except _UNREADABLE:
            found, code = None, EventCode.MALFORMED_JSON
        self.refused.append(
            NotAccepted(
                index=index,
                event_id=_event_id_of(found),
                status=EventStatus.REJECTED,
                code=code or code_of(found),
            )
        )


_SHORTEST = 8


def read_envelope(body: bytes) -> list[msgspec.Raw]:
    """The events of a JSON batch, each still as it came.

    Raises:
        MalformedJson, InvalidInput
    """
    try:
        raws = _envelope.decode(body).events
    except msgspec.ValidationError:
        raise _envelope_flaw(body) from None
    except _UNREADABLE:
        raws = _apart(body)
    if len(raws) > MOST_EVENTS:
        raise InvalidInput.of("events", "too_many_events", "A batch holds at most 5,000 events.")
    return raws


def _apart(body: bytes) -> list[msgspec.Raw]:
    """The events of a batch one of which cannot be decoded: it must not spoil the others.

    The standard library reads what JSON's grammar allows and text does not, such as half of a surrogate
    pair; each event is then read again by itself, and refused by itself.

    Raises:
        MalformedJson: the batch as a whole is no JSON, or nested without an end.
    """
    try:
        found = json.loads(body, parse_constant=_refuse_constant)
        if not isinstance(found, dict) or found.keys() != {"events"} or not isinstance(found["events"], list):
            raise MalformedJson
        return [msgspec.Raw(json.dumps(event).encode()) for event in found["events"]]
    except (ValueError, RecursionError):
        raise MalformedJson from None


def _refuse_constant(name: str) -> None:
    """NaN and Infinity are no JSON, though the standard library reads them."""
    raise ValueError(name)


def _envelope_flaw(body: bytes) -> InvalidInput | MalformedJson:
    try:
        found = _anything.decode(body)
    except _UNREADABLE:
        return MalformedJson()
    if not isinstance(found, Mapping):
        return InvalidInput.in_form("body", "invalid_type", "A JSON object is needed here.")
    if found.keys() - {"events"}:
        return InvalidInput.of(
            "body", "unknown_field", "The request has a field that this operation does not know."
        )
    if "events" not in found:
        return InvalidInput.in_form("events", "required", "This field is required.")
    return InvalidInput.in_form("events", "invalid_type", "A list of events is needed here.")


def code_of(found: Any) -> str:
    """Why this is no event. Names of fields are ours; what came in is in no code."""
    if not isinstance(found, Mapping):
        return EventCode.INVALID_EVENT
    if found.keys() - _FIELDS.keys():
        return EventCode.UNKNOWN_FIELD
    for name, field in _FIELDS.items():
        if name not in found:
            if field.required:
                return EventCode.REQUIRED
            continue
        try:
            msgspec.convert(found[name], _HINTS[name])
        except (msgspec.ValidationError, RecursionError):
            return f"invalid_{name}"
    return EventCode.INVALID_EVENT


def _may_hide_something(raw: bytes | memoryview) -> bool:
    """Whether the texts deserve a closer look: escapes (controls come as nothing else), or what keys begin with."""
    text = bytes(raw)
    return b"\\" in text or b"sk-ant-" in text.lower()


def _flaw_of(event: UsageEvent) -> str | None:
    texts = [(name, getattr(event, name)) for name in _TEXTS]
    texts += [("usage", getattr(event.usage, name)) for name in _USAGE_TEXTS]
    texts += [("usage", it.model) for it in event.usage.iterations or ()]
    for name, text in texts:
        if text is None:
            continue
        if looks_like_key(text):
            return EventCode.LOOKS_LIKE_KEY
        if min(text, default=_FIRST_PRINTABLE) < _FIRST_PRINTABLE:
            return f"invalid_{name}"
    return None


def _event_id_of(found: Any) -> str | None:
    """To be repeated in an answer: a well-formed id that is no key."""
    event_id = found.get("event_id") if isinstance(found, Mapping) else None
    if not isinstance(event_id, str) or not 0 < len(event_id) <= LONGEST_EVENT_ID or looks_like_key(event_id):
        return None
    return event_id


def _is_in_utc(instant: datetime | None) -> bool:
    return instant is None or instant.tzinfo is UTC


def _in_utc(event: UsageEvent) -> UsageEvent:
    """The same instants in one spelling, so that the same event has one digest."""
    completed_at: datetime | None = event.completed_at
    return msgspec.structs.replace(
        event,
        started_at=event.started_at.astimezone(UTC),
        completed_at=None if completed_at is None else completed_at.astimezone(UTC),
    )


def _out_of_range(event: UsageEvent) -> str:
    """Which of the instants lies at an end of time, where it has no spelling in UTC."""
    try:
        event.started_at.astimezone(UTC)
    except OverflowError:
        return "invalid_started_at"
    return "invalid_completed_at"
