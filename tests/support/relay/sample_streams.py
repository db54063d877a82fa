"""Streams as Anthropic sends them: compact JSON in raw UTF-8."""

import json
from typing import Any

MODEL = "claude-haiku-5-5"
START_USAGE = {
    "input_tokens": 25,
    "cache_creation_input_tokens": 10,
    "cache_read_input_tokens": 5,
    "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 0},
    "output_tokens": 1,
    "service_tier": "standard",
    "inference_geo": "global",
}
SIGNATURE = "EqQBCkYIBBgCKkA+/w==" * 8


def event(name: str, **data: Any) -> bytes:
    body = json.dumps({"type": name, **data}, ensure_ascii=False, separators=(",", ":"))
    return f"event: {name}\ndata: {body}\n\n".encode()


def block(index: int, start: dict[str, Any], *deltas: dict[str, Any]) -> bytes:
    """One content block."""
    return (
        event("content_block_start", index=index, content_block=start)
        + b"".join(event("content_block_delta", index=index, delta=delta) for delta in deltas)
        + event("content_block_stop", index=index)
    )


def text(index: int, *parts: str) -> bytes:
    return block(
        index, {"type": "text", "text": ""}, *({"type": "text_delta", "text": part} for part in parts)
    )


def thinking(index: int, *parts: str) -> bytes:
    deltas = [{"type": "thinking_delta", "thinking": part} for part in parts]
    signature = {"type": "signature_delta", "signature": SIGNATURE}
    return block(index, {"type": "thinking", "thinking": "", "signature": ""}, *deltas, signature)


def tool_use(index: int, *parts: str) -> bytes:
    deltas = ({"type": "input_json_delta", "partial_json": part} for part in parts)
    return block(index, {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}, *deltas)


def message(*blocks: bytes, stop_reason: str = "end_turn", **usage: Any) -> bytes:
    """A whole stream."""
    return start() + event("ping") + b"".join(blocks) + final(stop_reason, **usage) + event("message_stop")


def start() -> bytes:
    body: dict[str, Any] = {
        "id": "msg_01A",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": START_USAGE,
    }
    return event("message_start", message=body)


def final(stop_reason: str = "end_turn", *, category: str | None = None, **usage: Any) -> bytes:
    delta: dict[str, Any] = {"stop_reason": stop_reason, "stop_sequence": None}
    if category is not None:
        delta["stop_details"] = {"type": "refusal", "category": category, "explanation": None}
    return event("message_delta", delta=delta, usage={"output_tokens": 60, **usage})


TEXT = message(text(0, "Ich heiße ", "Claude … ", "🦜 ẞ龍 ", "𐀀 ࠀ"))
THINKING = message(thinking(0, "Der Name ", "— überlegen"), text(1, "Claude"))
TOOLS = message(text(0, "Moment"), tool_use(1, "", '{"city": "Kö', 'ln"}'), stop_reason="tool_use")
# Two message_delta, server tools that read more, an event that the SDKs do not know, and comments.
UNUSUAL = (
    start()
    + b": keep-alive\n\n"
    + text(0, "A")
    + event("an_event_of_the_future", value=1)
    + final(input_tokens=9281, server_tool_use={"web_search_requests": 2})
    + b": another\n"
    + final(cache_read_input_tokens=None)
    + event("message_stop")
)
# A refusal before any output, and one after which another model continued.
REFUSAL = start() + final("refusal", category="bio", output_tokens=0) + event("message_stop")
FALLBACK = message(
    block(
        0,
        {
            "type": "fallback",
            "from": {"model": "claude-fable-5"},
            "to": {"model": MODEL},
            "trigger": {"type": "refusal", "category": "frontier_llm"},
        },
    ),
    text(1, "Hello"),
)
ERROR = event(
    "error", error={"type": "overloaded_error", "message": "Overloaded", "details": None}, request_id="req_x"
)
FAILING = start() + event("content_block_start", index=0, content_block={"type": "text", "text": ""}) + ERROR
WELL_FORMED = {
    "text": TEXT,
    "thinking": THINKING,
    "tools": TOOLS,
    "unusual": UNUSUAL,
    "refusal": REFUSAL,
    "fallback": FALLBACK,
}


def crlf(stream: bytes) -> bytes:
    return stream.replace(b"\n", b"\r\n")
