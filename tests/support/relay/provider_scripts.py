"""What a provider may send, for the comparison of an SDK's direct requests with those through the relay."""

import json
from collections.abc import Awaitable, Callable, Iterator
from urllib.parse import parse_qs, urlsplit

from tests.support.relay import sample_streams
from tests.support.relay.sample_streams import MODEL, SIGNATURE, START_USAGE
from tests.support.relay.scripted_provider import Exchange, ScriptedProvider, error

# The SDKs wait as long as this before they repeat a request.
_RETRY_NOW = {"retry-after-ms": "1"}
_RATE_LIMITS = {"anthropic-ratelimit-requests-remaining": "41", "anthropic-organization-id": "org-1"}
MODELS = ["claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5"]

Script = Callable[[Exchange], Awaitable[None]]


def message(*content: dict[str, object], stop_reason: str = "end_turn") -> dict[str, object]:
    return {
        "id": "msg_01B",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": list(content),
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {**START_USAGE, "output_tokens": 60},
    }


TEXT = message({"type": "text", "text": "Ich heiße Claude 🦜"})
THINKING = message(
    {"type": "thinking", "thinking": "Der Name", "signature": SIGNATURE}, {"type": "text", "text": "Claude"}
)
TOOLS = message(
    {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Köln"}},
    stop_reason="tool_use",
)

# Status, error type, and how often an SDK with its defaults sends the request.
ERRORS = {
    400: ("invalid_request_error", 1),
    401: ("authentication_error", 1),
    402: ("billing_error", 1),
    403: ("permission_error", 1),
    404: ("not_found_error", 1),
    413: ("request_too_large", 1),
    429: ("rate_limit_error", 3),
    500: ("api_error", 3),
    503: ("api_error", 3),
    529: ("overloaded_error", 3),
}


def register(provider: ScriptedProvider) -> None:
    """Teach the provider all scripts."""
    for name, body in (("text", TEXT), ("thinking", THINKING), ("tools", TOOLS)):
        provider.script(name, _json(body))
    for status, (kind, _) in ERRORS.items():
        provider.script(f"error-{status}", _error(status, kind))
    provider.script("no-retry", _error(429, "rate_limit_error", {"x-should-retry": "false"}))
    provider.script("html-502", _html)
    provider.script("models", _models)
    provider.script("stream-error", _stream(sample_streams.FAILING, 10_000))
    for name, stream in sample_streams.WELL_FORMED.items():
        for size in (1, 7, 10_000):
            provider.script(f"stream-{name}-{size}", _stream(stream, size))
        provider.script(f"stream-{name}-crlf", _stream(sample_streams.crlf(stream), 5))


def scenarios() -> Iterator[tuple[str, str, int]]:
    """Call of the driver, script, and how often the provider gets the request."""
    for call in ("create", "beta", "raw_response"):
        yield call, "text", 1
    yield "create", "thinking", 1
    yield "tools", "tools", 1
    for name in sample_streams.WELL_FORMED:
        for variant in ("7", "10000", "crlf"):
            yield "stream_helper", f"stream-{name}-{variant}", 1
        yield "raw_stream", f"stream-{name}-1", 1
    yield "raw_stream", "stream-error", 1
    yield "stream_helper", "stream-error", 1
    yield "count_tokens", "", 1
    yield "models", "models", 2
    yield "model", "models", 1
    for status, (_, attempts) in ERRORS.items():
        yield "create", f"error-{status}", attempts
    yield "raw_stream", "error-529", 3
    yield "create", "no-retry", 1
    yield "create", "html-502", 3


def _json(body: dict[str, object]) -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.respond(200, json.dumps(body, ensure_ascii=False).encode(), _RATE_LIMITS)

    return script


def _error(status: int, kind: str, headers: dict[str, str] | None = None) -> Script:
    async def script(exchange: Exchange) -> None:
        body = error(kind, f"Words about {status}", error_code="a_code")
        await exchange.respond(status, body, _RETRY_NOW | _RATE_LIMITS | (headers or {}))

    return script


def _stream(stream: bytes, size: int) -> Script:
    async def script(exchange: Exchange) -> None:
        headers = {"content-type": "text/event-stream; charset=utf-8", "request-id": "req_provider"}
        await exchange.head(200, headers)
        for start in range(0, len(stream), size):
            await exchange.chunk(stream[start : start + size])
        await exchange.end()

    return script


async def _html(exchange: Exchange) -> None:
    await exchange.respond(502, b"<html>bad gateway</html>", {"content-type": "text/html", **_RETRY_NOW})


async def _models(exchange: Exchange) -> None:
    """One model, or pages of them."""
    url = urlsplit(exchange.target)
    found = [
        {"type": "model", "id": name, "display_name": name, "created_at": "2026-10-07T00:00:00Z"}
        for name in MODELS
    ]
    if url.path != "/v1/models":
        await exchange.respond(200, found[MODELS.index(url.path.rpartition("/")[2])])
        return
    query = parse_qs(url.query)
    first = MODELS.index(query["after_id"][0]) + 1 if "after_id" in query else 0
    page = found[first : first + int(query["limit"][0])]
    has_more = first + len(page) < len(found)
    await exchange.respond(
        200, {"data": page, "has_more": has_more, "first_id": page[0]["id"], "last_id": page[-1]["id"]}
    )
