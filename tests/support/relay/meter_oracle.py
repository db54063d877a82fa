"""An oracle for the meter of streams: it reads the whole stream at once, decodes every event, and follows the SDK's rules."""

import json
import re
from collections.abc import Iterator
from typing import Any

from app.relay.usage_meter import Metered, UsageSource

_TEXTS = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}


def metered(stream: bytes) -> Metered:
    """What a meter must report after exactly these bytes."""
    started: dict[str, Any] = {}
    usage: dict[str, Any] | None = None
    stop_reason = category = fallback_category = error_type = error_code = None
    has_delta = is_complete = False
    delta_bytes = 0
    for name, data in events(stream):
        body = json.loads(data)
        match name:
            case "message_start":
                started, usage = body["message"], dict(body["message"]["usage"])
            case "content_block_delta":
                delta_bytes += _payload_bytes(body["delta"], data)
            case "content_block_start" if body["content_block"]["type"] == "fallback":
                fallback_category = body["content_block"]["trigger"]["category"]
            case "message_delta":
                has_delta, stop_reason = True, body["delta"]["stop_reason"] or stop_reason
                category = (body["delta"].get("stop_details") or {}).get("category") or category
                usage = dict(usage or {})
                usage.update((field, value) for field, value in body["usage"].items() if value is not None)
            case "message_stop":
                is_complete = True
            case "error":
                error_type = body["error"]["type"]
                error_code = (body["error"].get("details") or {}).get("error_code")
    if usage is not None and not has_delta:
        usage["output_tokens"] = max(1, delta_bytes // 4)
    return Metered(
        usage=usage,
        source=UsageSource.REPORTED if has_delta else UsageSource.ESTIMATED,
        model=started.get("model"),
        message_id=started.get("id"),
        stop_reason=stop_reason,
        refusal_category=category or fallback_category,
        is_complete=is_complete,
        error_type=error_type,
        error_code=error_code,
        delta_bytes=delta_bytes,
    )


def events(stream: bytes) -> Iterator[tuple[str, str]]:
    """The complete events, as the standard of server-sent events reads them."""
    name, data, line_end = "", [], re.compile(r"\r\n|\n|\r")
    if stream.endswith(b"\n\r"):
        stream = stream[:-1]  # half of CRLF: clients wait for the rest
    lines = line_end.split(stream.decode("utf-8", "surrogateescape"))
    for line in lines[:-1]:  # the last one has no end
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match field:
            case "event":
                name = value
            case "data":
                data.append(value)
            case "" if not line:
                if data:
                    yield name or json.loads("\n".join(data)).get("type", ""), "\n".join(data)
                name, data = "", []


def _payload_bytes(delta: dict[str, Any], data: str) -> int:
    text = delta.get(_TEXTS.get(delta["type"], ""))
    if text is None:
        return 0
    forms = (json.dumps(text, ensure_ascii=False), json.dumps(text))
    return next(len(form.encode("utf-8", "surrogateescape")) - 2 for form in forms if form in data)
