"""Anthropic's usage object, and its conversion to the parts that are priced.

Unknown fields are ignored, because the provider may add fields at any time. The types are `msgspec.Struct`
instead of dataclasses, because msgspec decodes them directly from bytes (docs/explanation/adr/0016-usage-event-keys.md).
docs/explanation/metering.md has the rules for iterations, with the provider's pages that they come from.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Literal

from msgspec import Meta, Struct, structs

from app.core.model_identity import without_snapshot_date
from app.usage_events.records import ModelUsage, TokenUsage, UsageFlag

# Larger than any real request, and small enough that every cost fits a bigint.
MAX_COUNT = 1_000_000_000
MAX_WEB_SEARCHES = 100_000
# More than any request has, so that one event takes a few milliseconds.
MAX_EVENT_ITERATIONS = 256
# Of events that were recorded before that limit.
MAX_ITERATIONS = 10_000

_Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
MAX_SHORT_TEXT = 64
MAX_MODEL_LENGTH = 128
_ShortText = Annotated[str, Meta(max_length=MAX_SHORT_TEXT)]

_TTL_ASSUMED = int(UsageFlag.CACHE_TTL_ASSUMED)
_COMPACTION_ADDED = int(UsageFlag.COMPACTION_ADDED)
_MIXED_MODELS = int(UsageFlag.MIXED_MODELS)
_REFUSAL = int(UsageFlag.REFUSAL)
_FIELD_IGNORED = int(UsageFlag.USAGE_FIELD_IGNORED)

_MESSAGE, _FALLBACK, _COMPACTION, _ADVISOR = "message", "fallback_message", "compaction", "advisor_message"
_KNOWN_TYPES = frozenset({_MESSAGE, _FALLBACK, _COMPACTION, _ADVISOR})
# The model of an advisor that the usage object does not name, and of an iteration that names one which cannot be read. It
# has no price.
UNNAMED_MODEL = "unknown"


class CacheCreation(Struct, frozen=True, omit_defaults=True, gc=False):
    """Tokens written to the cache, by time to live."""

    ephemeral_5m_input_tokens: _Count | None = None
    ephemeral_1h_input_tokens: _Count | None = None


class ServerToolUse(Struct, frozen=True, omit_defaults=True, gc=False):
    """Server tool requests. Only web searches are known to have a fee."""

    web_search_requests: Annotated[int, Meta(ge=0, le=MAX_WEB_SEARCHES)] | None = None


class Iteration(Struct, frozen=True, omit_defaults=True, gc=False):
    """One iteration of a request with several iterations."""

    type: _ShortText | None = None
    model: Annotated[str, Meta(max_length=MAX_MODEL_LENGTH)] | None = None
    input_tokens: _Count | None = None
    cache_creation_input_tokens: _Count | None = None
    cache_creation: CacheCreation | None = None
    cache_read_input_tokens: _Count | None = None
    output_tokens: _Count | None = None


class UsageObject(Struct, frozen=True, omit_defaults=True, gc=False):
    """The `usage` object of a response. Null and absent counts mean 0."""

    input_tokens: _Count | None = None
    cache_creation_input_tokens: _Count | None = None
    cache_creation: CacheCreation | None = None
    cache_read_input_tokens: _Count | None = None
    output_tokens: _Count | None = None
    server_tool_use: ServerToolUse | None = None
    service_tier: _ShortText | None = None
    speed: _ShortText | None = None
    inference_geo: _ShortText | None = None
    iterations: Annotated[list[Iteration], Meta(max_length=MAX_ITERATIONS)] | None = None


def has_counters(usage: UsageObject) -> bool:
    """Whether the object, or one of its iterations, contains a token counter. Without one it is not Anthropic's."""
    return _has_counters(usage) or any(_has_counters(it) for it in usage.iterations or ())


def has_message_counters(usage: UsageObject) -> bool:
    """Whether the object, or one of its iterations, counts more than cached tokens, as every response of Anthropic does."""
    if usage.input_tokens is not None or usage.output_tokens is not None:
        return True
    return any(it.input_tokens is not None or it.output_tokens is not None for it in usage.iterations or ())


def has_tokens(usage: UsageObject, counter: Literal["input_tokens", "output_tokens"]) -> bool:
    """Whether the object, or one of its iterations, counts more than 0."""
    return bool(getattr(usage, counter)) or any(getattr(it, counter) for it in usage.iterations or ())


def priced_parts(
    model: str, usage: UsageObject, *, is_refusal: bool = False, is_refusal_billed: bool = False
) -> tuple[tuple[ModelUsage, ...], int]:
    """Return the parts to price (the message first) and the flags for assumptions that were made.

    Args:
        model: the event's model.
        usage: the usage object.
        is_refusal: the request ended with a refusal, so it is free if it has no output.
        is_refusal_billed: the provider bills refusals before any output, because of their category.
    """
    tokens, flags = _tokens(usage)
    message = ModelUsage(
        model=model,
        tokens=tokens,
        service_tier=usage.service_tier,
        speed=usage.speed,
        inference_geo=usage.inference_geo,
    )
    iterations = usage.iterations or ()
    if not iterations and not is_refusal:
        return (message,), flags
    has_fallback = any(it.type == _FALLBACK for it in iterations)
    calls = [it for it in iterations if it.type == (_FALLBACK if has_fallback else _MESSAGE)]
    is_declined = tokens.output == 0 and (is_refusal or has_fallback)
    served = replace(
        message,
        model=_served_model(model, calls),
        calls=_single_calls(tokens, calls),
        is_free=is_declined and not is_refusal_billed,
    )
    added = list(
        _added_parts(message, iterations, has_fallback=has_fallback, is_refusal_billed=is_refusal_billed)
    )
    for _, added_flags in added:
        flags |= added_flags
    parts = (served, *(part for part, _ in added))
    if _is_more(calls, tokens):
        flags |= _FIELD_IGNORED
    return parts, flags | _assumptions(parts, iterations, is_declined=is_declined)


def total_tokens(parts: Sequence[ModelUsage]) -> TokenUsage:
    """Return the sum of the tokens of all parts."""
    return parts[0].tokens if len(parts) == 1 else _sum([part.tokens for part in parts])


def _assumptions(parts: Sequence[ModelUsage], iterations: Sequence[Iteration], *, is_declined: bool) -> int:
    flags = _REFUSAL if is_declined else 0
    if any(it.type not in _KNOWN_TYPES for it in iterations):
        flags |= _FIELD_IGNORED
    if any(part.model != parts[0].model for part in parts):
        flags |= _MIXED_MODELS
    return flags


def _has_counters(usage: "UsageObject | Iteration") -> bool:
    return (
        usage.input_tokens is not None
        or usage.output_tokens is not None
        or usage.cache_read_input_tokens is not None
        or usage.cache_creation_input_tokens is not None
    )


def _served_model(model: str, calls: Sequence[Iteration]) -> str:
    """Return the model that produced the message: that of the fallback, or the one that all iterations name."""
    named = {it.model for it in calls}
    found = calls[-1].model if calls and calls[-1].type == _FALLBACK else None
    if not found and len(named - {UNNAMED_MODEL}) == len(named) == 1:
        (found,) = named
    if not found or without_snapshot_date(found) == without_snapshot_date(model):
        return model
    return found


def _added_parts(
    message: ModelUsage, iterations: Sequence[Iteration], *, has_fallback: bool, is_refusal_billed: bool
) -> Iterator[tuple[ModelUsage, int]]:
    """Yield the parts that the top-level counters do not include, with flags."""
    for it in iterations:
        is_attempt = it.type == _MESSAGE and has_fallback and (it.output_tokens or is_refusal_billed)
        if it.type not in {_COMPACTION, _ADVISOR} and not is_attempt:
            continue
        tokens, flags = _tokens(it)
        if tokens == TokenUsage():
            continue
        model = it.model or (UNNAMED_MODEL if it.type == _ADVISOR else message.model)
        part = replace(message, model=model, tokens=tokens, calls=(tokens,))
        yield part, flags | (_COMPACTION_ADDED if it.type == _COMPACTION else 0)


def _single_calls(total: TokenUsage, iterations: Sequence[Iteration]) -> tuple[TokenUsage, ...]:
    """Return the tokens of each call if the iterations contain all of them, so that they add up to the total; else nothing."""
    if not iterations:
        return ()
    calls = [_tokens(it)[0] for it in iterations]
    if total.cache_write_1h and not total.cache_write_5m:
        # An iteration may omit the split. Here it does not matter, because all writes have the same time to live.
        calls = [
            structs.replace(it, cache_write_5m=0, cache_write_1h=it.cache_write_5m + it.cache_write_1h)
            for it in calls
        ]
    calls[0] = structs.replace(calls[0], web_search_requests=total.web_search_requests)
    return tuple(calls) if _sum(calls) == total else ()


def _is_more(calls: Sequence[Iteration], total: TokenUsage) -> bool:
    """Whether the calls have tokens that the top level, which is their total, does not have."""
    summed = _sum([_tokens(it)[0] for it in calls])
    return (
        summed.uncached_input > total.uncached_input
        or summed.cache_write_5m + summed.cache_write_1h > total.cache_write_5m + total.cache_write_1h
        or summed.cache_read > total.cache_read
        or summed.output > total.output
    )


def _sum(tokens: Sequence[TokenUsage]) -> TokenUsage:
    return TokenUsage(
        uncached_input=sum(it.uncached_input for it in tokens),
        cache_write_5m=sum(it.cache_write_5m for it in tokens),
        cache_write_1h=sum(it.cache_write_1h for it in tokens),
        cache_read=sum(it.cache_read for it in tokens),
        output=sum(it.output for it in tokens),
        web_search_requests=sum(it.web_search_requests for it in tokens),
    )


def _tokens(usage: UsageObject | Iteration) -> tuple[TokenUsage, int]:
    writes_5m, writes_1h, flags = _cache_writes(usage)
    tools = usage.server_tool_use if isinstance(usage, UsageObject) else None
    tokens = TokenUsage(
        uncached_input=usage.input_tokens or 0,
        cache_write_5m=writes_5m,
        cache_write_1h=writes_1h,
        cache_read=usage.cache_read_input_tokens or 0,
        output=usage.output_tokens or 0,
        web_search_requests=0 if tools is None else tools.web_search_requests or 0,
    )
    return tokens, flags


def _cache_writes(usage: UsageObject | Iteration) -> tuple[int, int, int]:
    """Return the cache writes for 5 minutes and for 1 hour, and a flag.

    Tokens without a time to live count as 5-minute writes and set the flag.
    """
    total, split = usage.cache_creation_input_tokens or 0, usage.cache_creation
    if split is None:
        return total, 0, _TTL_ASSUMED if total else 0
    writes_5m, writes_1h = split.ephemeral_5m_input_tokens or 0, split.ephemeral_1h_input_tokens or 0
    excess = total - writes_5m - writes_1h
    return (writes_5m + excess, writes_1h, _TTL_ASSUMED) if excess > 0 else (writes_5m, writes_1h, 0)
