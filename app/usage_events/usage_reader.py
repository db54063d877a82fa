"""Reads usage objects that the strict decoder does not accept.

Counters decide about money, so a counter with an impossible value rejects the event. Every other field with an
unexpected form is left out and flagged. Errors name fields only by names that are listed here, never by the input.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Literal

import msgspec

from app.usage_events.anthropic_usage import (
    MAX_COUNT,
    MAX_ITERATIONS,
    MAX_MODEL_LENGTH,
    MAX_SHORT_TEXT,
    MAX_WEB_SEARCHES,
    UNNAMED_MODEL,
    UsageObject,
)
from app.usage_events.records import UsageFlag

_COUNTERS = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
)
_CACHE_COUNTERS = ("cache_read_input_tokens", "cache_creation_input_tokens")
_WRITES = ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")
_OBJECTS = {"cache_creation": _WRITES, "server_tool_use": ("web_search_requests",)}
_LARGEST = {"web_search_requests": MAX_WEB_SEARCHES}
_IGNORED = int(UsageFlag.USAGE_FIELD_IGNORED)
# The flags that say that a condition of the price is not known.
_TEXTS = {
    "service_tier": _IGNORED | int(UsageFlag.TIER_ASSUMED),
    "speed": _IGNORED | int(UsageFlag.SPEED_ASSUMED),
    "inference_geo": _IGNORED | int(UsageFlag.GEOGRAPHY_ASSUMED),
}
_OWN_FIELDS = (*_COUNTERS, *_OBJECTS, *_TEXTS, "iterations")
# Counters of other usage objects, of other providers and of SDKs that rename Anthropic's.
_FOREIGN_INPUT = (
    *("prompt_tokens", "inputTokens", "promptTokenCount", "input_token", "input"),
    *("promptTokens", "prompt_eval_count", "INPUT_TOKENS"),
)
_FOREIGN_OUTPUT = (
    *("completion_tokens", "outputTokens", "candidatesTokenCount", "output_token", "output"),
    *("completionTokens", "eval_count", "OUTPUT_TOKENS"),
)
_FOREIGN_CACHE = ("cacheReadInputTokens", "cacheWriteInputTokens", "cachedContentTokenCount", "cached_tokens")
_FOREIGN_COUNTERS = (
    *(*_FOREIGN_INPUT, *_FOREIGN_OUTPUT, *_FOREIGN_CACHE),
    *("total_tokens", "totalTokens", "totalTokenCount", "tokens", "usage", "usageMetadata"),
)
# Each of them contains one of these.
_CACHED, _INPUT_TOKENS = b"cached", b"InputTokens"
# Where these exist, `input_tokens` may contain the cached tokens too.
_INPUT_DETAILS = ("prompt_tokens_details", "input_tokens_details", "input_token_details")
_FOREIGN_FIELDS = (
    *_FOREIGN_COUNTERS,
    *_INPUT_DETAILS,
    *("completion_tokens_details", "output_tokens_details", "output_token_details", "reasoning_tokens"),
)
# Part of each of them, and of Anthropic's `output_tokens_details`.
_DETAILS = b"_details"
_INPUT_DETAILS_IN_JSON = tuple(name.encode() for name in _INPUT_DETAILS)
# Part of the name of each counter of cache writes by time to live.
_TIME_TO_LIVE = b"ephemeral_"
_WRITES_IN_JSON = tuple(name.encode() for name in _WRITES)
_NOTHING = frozenset({b"null", b"0", b"{}"})
ITERATIONS: Final = "usage.iterations"
_FIRST_PRINTABLE = " "
# Replaces an array or object where only a text or number is allowed. It is not decoded.
NOT_A_SCALAR: Final = ()
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_any_json = msgspec.json.Decoder()
_list_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _decoder(*names: str) -> msgspec.json.Decoder[msgspec.Struct]:
    """A decoder that keeps only these fields of an object, and does not decode them."""
    fields = [(name, msgspec.Raw | msgspec.UnsetType, msgspec.UNSET) for name in names]
    return msgspec.json.Decoder(msgspec.defstruct("_Fields", fields, gc=False))


_usage_decoder = _decoder(*_OWN_FIELDS)
_iteration_decoder = _decoder(*_COUNTERS, "cache_creation", "type", "model")
_object_decoders = {name: _decoder(*counters) for name, counters in _OBJECTS.items()}
_known_fields_decoder = _decoder(*_OWN_FIELDS, *_FOREIGN_FIELDS)

Flagged = tuple[dict[str, Any], int]


class UsageRejected(Exception):
    """The usage object cannot be counted, because of this field."""

    def __init__(self, field: str) -> None:
        super().__init__(field)
        self.field = field


def read_scalar(raw: msgspec.Raw | bytes) -> Any:
    """Decode a text, a number, a boolean or null.

    Raises:
        DecodeError, UnicodeDecodeError: it is not valid JSON.
    """
    return NOT_A_SCALAR if bytes(raw).lstrip()[:1] in {b"[", b"{"} else _any_json.decode(raw)


def normalize_usage(
    raw: msgspec.Raw | bytes | memoryview, *, max_iterations: int = MAX_ITERATIONS
) -> Flagged:
    """Return the object in the form that the strict decoder accepts, and flags for what was left out.

    Raises:
        UsageRejected: it is not an object, has too many iterations, or a counter has an impossible value.
        DecodeError, UnicodeDecodeError, RecursionError: a known field is not valid JSON.
    """
    found = _read(raw, _usage_decoder)
    if found is None:
        raise UsageRejected("usage")
    kept, flags = _counters(found, "usage", _COUNTERS), 0
    for name, counters in _OBJECTS.items():
        flags |= _add_object(kept, found, "usage", name, counters)
    for name, flag in _TEXTS.items():
        flags |= _add_text(kept, found, name, flag)
    if "iterations" in found:
        flags |= _add_iterations(kept, found["iterations"], max_iterations)
    return kept, flags


def decode_usage(raw: bytes | memoryview) -> tuple[UsageObject, int]:
    """Decode a usage object that was accepted before.

    Raises:
        UsageRejected
    """
    usage, flags = normalize_usage(raw)
    return msgspec.convert(usage, UsageObject), flags


def known_fields(raw: bytes) -> Sequence[str]:
    """Return the fields of an object without counters, as far as their names are known."""
    names = _read(raw, _known_fields_decoder) or {}
    return [f"usage.{name}" for name in (*_OWN_FIELDS, *_FOREIGN_FIELDS) if name in names]


def has_foreign_counters(raw: bytes, of: Literal["input", "output", "any"]) -> bool:
    """Whether the object counts such tokens under names of another provider or SDK."""
    names = {"input": _FOREIGN_INPUT, "output": _FOREIGN_OUTPUT, "any": _FOREIGN_COUNTERS}[of]
    found = _read(raw, _known_fields_decoder) or {}
    return any(bytes(found[name]).strip() not in _NOTHING for name in names if name in found)


def has_foreign_cache_counters(raw: bytes) -> bool:
    """Whether the object counts cached tokens under a foreign name only, so that they are not billed."""
    if raw.find(_CACHED) < 0 and raw.find(_INPUT_TOKENS) < 0:
        return False
    found = _read(raw, _known_fields_decoder) or {}
    own, foreign = (
        any(bytes(found[name]).strip() not in _NOTHING for name in names if name in found)
        for names in (_CACHE_COUNTERS, _FOREIGN_CACHE)
    )
    return foreign and not own


def has_foreign_details(raw: bytes) -> bool:
    """Whether the object divides its input tokens as other providers do, so that they may include cached ones."""
    # `find` is ten times faster than `in`.
    if raw.find(_DETAILS) < 0 or not any(raw.find(name) >= 0 for name in _INPUT_DETAILS_IN_JSON):
        return False
    found = _read(raw, _known_fields_decoder) or {}
    return any(bytes(found[name]).strip() not in _NOTHING for name in _INPUT_DETAILS if name in found)


def has_unknown_time_to_live(raw: bytes) -> bool:
    """Whether the object, or one of its iterations, has cache writes with a time to live whose price is not known."""
    if raw.count(_TIME_TO_LIVE) == sum(raw.count(name) for name in _WRITES_IN_JSON):
        return False
    found = _read(raw, _usage_decoder) or {}
    iterations: Sequence[msgspec.Raw] = ()
    with suppress(*_UNREADABLE):
        iterations = _list_decoder.decode(found.get("iterations", b"[]"))
    calls = [found, *(_read(it, _iteration_decoder) or {} for it in iterations)]
    return any(_has_unknown_writes(call["cache_creation"]) for call in calls if "cache_creation" in call)


def _has_unknown_writes(raw: msgspec.Raw) -> bool:
    try:
        writes = _object_decoder.decode(raw)
    except msgspec.ValidationError:
        return False  # not an object, which is flagged elsewhere
    except _UNREADABLE:
        return True  # a name that is not UTF-8 is not known
    return any(name not in _WRITES and bytes(count).strip() not in _NOTHING for name, count in writes.items())


def is_short_text(value: Any, *, at_most: int = MAX_SHORT_TEXT) -> bool:
    """Whether a value is a text without control characters that is not too long."""
    return (
        isinstance(value, str)
        and len(value) <= at_most
        and min(value, default=_FIRST_PRINTABLE) >= _FIRST_PRINTABLE
    )


def _read(
    raw: msgspec.Raw | bytes | memoryview, decoder: msgspec.json.Decoder[msgspec.Struct]
) -> Mapping[str, msgspec.Raw] | None:
    """Return the known fields of an object, not decoded yet. None if it is not an object."""
    try:
        found = decoder.decode(raw)
    except msgspec.ValidationError:
        return None
    return {name: it for name in found.__struct_fields__ if (it := getattr(found, name)) is not msgspec.UNSET}


def _add_iterations(kept: dict[str, Any], raw: msgspec.Raw, at_most: int) -> int:
    try:
        found = _list_decoder.decode(raw)
    except msgspec.ValidationError:
        return 0 if _is_null(raw) else _IGNORED
    if len(found) > at_most:
        raise UsageRejected(ITERATIONS)
    normalized = [_iteration(it) for it in found]
    kept["iterations"] = [it for it, _ in normalized if it is not None]
    flags = 0
    for _, flag in normalized:
        flags |= flag
    return flags


def _iteration(raw: msgspec.Raw) -> tuple[dict[str, Any] | None, int]:
    found = _read(raw, _iteration_decoder)
    if found is None:
        return None, _IGNORED
    kept = _counters(found, ITERATIONS, _COUNTERS)
    flags = _add_object(kept, found, ITERATIONS, "cache_creation", _WRITES)
    flags |= _add_text(kept, found, "type", _IGNORED)
    ignored = _add_text(kept, found, "model", _IGNORED, at_most=MAX_MODEL_LENGTH)
    if ignored:  # it is not the event's model, whose price would be a guess
        kept["model"] = UNNAMED_MODEL
    return kept, flags | ignored


def _counters(found: Mapping[str, msgspec.Raw], path: str, names: Sequence[str]) -> dict[str, Any]:
    values = {name: read_scalar(found[name]) for name in names if name in found}
    return {name: _count(it, f"{path}.{name}", name) for name, it in values.items() if it is not None}


def _count(value: Any, path: str, name: str) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or not 0 <= value <= _LARGEST.get(name, MAX_COUNT)
    ):
        raise UsageRejected(path)
    return value


def _add_object(
    kept: dict[str, Any], found: Mapping[str, msgspec.Raw], path: str, name: str, counters: Sequence[str]
) -> int:
    if name not in found:
        return 0
    value = _read(found[name], _object_decoders[name])
    if value is None:
        return 0 if _is_null(found[name]) else _IGNORED
    kept[name] = _counters(value, f"{path}.{name}", counters)
    return 0


def _add_text(
    kept: dict[str, Any],
    found: Mapping[str, msgspec.Raw],
    name: str,
    flag: int,
    *,
    at_most: int = MAX_SHORT_TEXT,
) -> int:
    value = read_scalar(found[name]) if name in found else None
    if is_short_text(value, at_most=at_most):
        kept[name] = value
    return 0 if value is None or name in kept else flag


def _is_null(raw: msgspec.Raw) -> bool:
    return bytes(raw).strip() == b"null"
