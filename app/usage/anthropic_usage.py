"""Anthropic's usage object as it comes, and what of it is priced.

Fields that we do not know are ignored: the provider adds some at any time. `msgspec.Struct` rather than a
dataclass, because its decoder builds them straight from bytes (docs/adr/0016-usage-event-keys.md).
"""

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, Struct

from app.usage.records import ModelUsage, TokenUsage, UsageFlag

# Beyond any request that there could be, and small enough that no cost leaves a bigint.
LARGEST_COUNT = 1_000_000_000
LARGEST_WEB_SEARCHES = 100_000
MOST_ITERATIONS = 256

_Count = Annotated[int, Meta(ge=0, le=LARGEST_COUNT)]
_Word = Annotated[str, Meta(max_length=64)]

_TTL_ASSUMED = int(UsageFlag.CACHE_TTL_ASSUMED)
_COMPACTION_ADDED = int(UsageFlag.COMPACTION_ADDED)
_MIXED_MODELS = int(UsageFlag.MIXED_MODELS)


class CacheCreation(Struct, frozen=True, omit_defaults=True, gc=False):
    """Cache writes by their time to live."""

    ephemeral_5m_input_tokens: _Count | None = None
    ephemeral_1h_input_tokens: _Count | None = None


class ServerToolUse(Struct, frozen=True, omit_defaults=True, gc=False):
    """Requests of server tools. Only web searches are known to cost a fee."""

    web_search_requests: Annotated[int, Meta(ge=0, le=LARGEST_WEB_SEARCHES)] | None = None


class Iteration(Struct, frozen=True, omit_defaults=True, gc=False):
    """One iteration of a request that took several."""

    type: _Word | None = None
    model: Annotated[str, Meta(max_length=128)] | None = None
    input_tokens: _Count | None = None
    cache_creation_input_tokens: _Count | None = None
    cache_creation: CacheCreation | None = None
    cache_read_input_tokens: _Count | None = None
    output_tokens: _Count | None = None


class UsageObject(Struct, frozen=True, omit_defaults=True, gc=False):
    """`usage` of an answer. Nulls and absent fields are zeros."""

    input_tokens: _Count | None = None
    cache_creation_input_tokens: _Count | None = None
    cache_creation: CacheCreation | None = None
    cache_read_input_tokens: _Count | None = None
    output_tokens: _Count | None = None
    server_tool_use: ServerToolUse | None = None
    service_tier: _Word | None = None
    speed: _Word | None = None
    inference_geo: _Word | None = None
    iterations: Annotated[list[Iteration], Meta(max_length=MOST_ITERATIONS)] | None = None


def parts_of(model: str, usage: UsageObject) -> tuple[tuple[ModelUsage, ...], int]:
    """What is priced, the message itself first, and flags that say how it was read.

    Compaction iterations are not in the top-level counters, so each is a part of its own. Iterations by
    other models may or may not be in them; they are only flagged.
    """
    writes_5m, writes_1h, flags = _writes(usage)
    tools = usage.server_tool_use
    tokens = TokenUsage(
        uncached_input=usage.input_tokens or 0,
        cache_write_5m=writes_5m,
        cache_write_1h=writes_1h,
        cache_read=usage.cache_read_input_tokens or 0,
        output=usage.output_tokens or 0,
        web_search_requests=0 if tools is None else tools.web_search_requests or 0,
    )
    message = ModelUsage(
        model=model,
        tokens=tokens,
        service_tier=usage.service_tier,
        speed=usage.speed,
        inference_geo=usage.inference_geo,
    )
    if not usage.iterations:
        return (message,), flags
    further: list[ModelUsage] = []
    for part, its_flags in _further_parts(message, usage.iterations):
        flags |= its_flags
        if part is not None:
            further.append(part)
    return (message, *further), flags


def total_of(parts: tuple[ModelUsage, ...]) -> TokenUsage:
    """The tokens of all parts together."""
    if len(parts) == 1:
        return parts[0].tokens
    tokens = [part.tokens for part in parts]
    return TokenUsage(
        uncached_input=sum(it.uncached_input for it in tokens),
        cache_write_5m=sum(it.cache_write_5m for it in tokens),
        cache_write_1h=sum(it.cache_write_1h for it in tokens),
        cache_read=sum(it.cache_read for it in tokens),
        output=sum(it.output for it in tokens),
        web_search_requests=sum(it.web_search_requests for it in tokens),
    )


def _further_parts(
    message: ModelUsage, iterations: list[Iteration]
) -> Iterator[tuple[ModelUsage | None, int]]:
    for it in iterations:
        flags = 0 if it.model is None or it.model == message.model else _MIXED_MODELS
        if it.type != "compaction":
            yield None, flags
            continue
        writes_5m, writes_1h, assumed = _writes(it)
        tokens = TokenUsage(
            uncached_input=it.input_tokens or 0,
            cache_write_5m=writes_5m,
            cache_write_1h=writes_1h,
            cache_read=it.cache_read_input_tokens or 0,
            output=it.output_tokens or 0,
        )
        part = ModelUsage(
            model=it.model or message.model,
            tokens=tokens,
            service_tier=message.service_tier,
            speed=message.speed,
            inference_geo=message.inference_geo,
        )
        yield part, flags | assumed | _COMPACTION_ADDED


def _writes(usage: UsageObject | Iteration) -> tuple[int, int, int]:
    """Cache writes at 5 minutes and at 1 hour. What the split leaves over is at 5 minutes, and flagged."""
    total, split = usage.cache_creation_input_tokens or 0, usage.cache_creation
    if split is None:
        return total, 0, _TTL_ASSUMED if total else 0
    writes_5m, writes_1h = split.ephemeral_5m_input_tokens or 0, split.ephemeral_1h_input_tokens or 0
    excess = total - writes_5m - writes_1h
    return (writes_5m + excess, writes_1h, _TTL_ASSUMED) if excess > 0 else (writes_5m, writes_1h, 0)
