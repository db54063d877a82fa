"""Strategies for streams of server-sent events as providers send them, and for their chunking."""

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

TEXTS = st.text(max_size=40)
COUNTS = st.integers(min_value=0, max_value=10**7)
OPTIONAL_COUNTS = st.none() | COUNTS
START_USAGE = st.fixed_dictionaries(
    {"input_tokens": COUNTS, "output_tokens": st.integers(1, 4)},
    optional={
        "cache_creation_input_tokens": OPTIONAL_COUNTS,
        "cache_read_input_tokens": OPTIONAL_COUNTS,
        "cache_creation": st.fixed_dictionaries(
            {"ephemeral_5m_input_tokens": COUNTS, "ephemeral_1h_input_tokens": COUNTS}
        ),
        "service_tier": st.sampled_from(["standard", "priority"]),
    },
)
DELTA_USAGE = st.fixed_dictionaries(
    {"output_tokens": COUNTS},
    optional={
        "input_tokens": OPTIONAL_COUNTS,
        "cache_creation_input_tokens": OPTIONAL_COUNTS,
        "cache_read_input_tokens": OPTIONAL_COUNTS,
        "server_tool_use": st.none() | st.fixed_dictionaries({"web_search_requests": COUNTS}),
        "output_tokens_details": st.none() | st.fixed_dictionaries({"thinking_tokens": COUNTS}),
    },
)
DELTAS = st.one_of(
    st.fixed_dictionaries({"type": st.just("text_delta"), "text": TEXTS}),
    st.fixed_dictionaries({"type": st.just("thinking_delta"), "thinking": TEXTS}),
    st.fixed_dictionaries({"type": st.just("signature_delta"), "signature": TEXTS}),
    st.fixed_dictionaries({"type": st.just("input_json_delta"), "partial_json": TEXTS}),
)
# Text that looks like framing or like an event is still text.
TRAPS = st.sampled_from(
    [
        'event: message_delta\n\ndata: {"usage": {"output_tokens": 9}}\n\n',
        '"text":"',
        '"delta":{"type":"text_delta","text":"x"}}',
        "message_stop",
        "\r\n\r\n",
    ]
).map(lambda text: {"type": "text_delta", "text": text})


def _event(kind: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    return st.fixed_dictionaries({"type": st.just(kind), **fields}).map(lambda body: (kind, body))


MESSAGE_STARTS = _event(
    "message_start",
    message=st.fixed_dictionaries(
        {
            "id": st.just("msg_1"),
            "model": st.sampled_from(["claude-haiku-5-5", "claude-é"]),
            "usage": START_USAGE,
        }
    ),
)
MESSAGE_DELTAS = _event(
    "message_delta",
    delta=st.fixed_dictionaries({"stop_reason": st.sampled_from(["end_turn", "tool_use", None])}),
    usage=DELTA_USAGE,
)
BLOCK_DELTAS = _event("content_block_delta", index=st.integers(0, 3), delta=DELTAS | TRAPS)
ERRORS = _event(
    "error",
    error=st.fixed_dictionaries(
        {"type": st.just("overloaded_error"), "message": TEXTS},
        optional={"details": st.none() | st.just({"error_code": "compaction_unavailable"})},
    ),
)
OTHERS = st.one_of(
    _event("ping"),
    _event("content_block_start", content_block=st.just({"type": "text", "text": ""})),
    _event("content_block_stop", index=st.integers(0, 3)),
    _event("an_unknown_event", usage=DELTA_USAGE),
)
BODIES = st.lists(st.one_of(BLOCK_DELTAS, BLOCK_DELTAS, MESSAGE_DELTAS, OTHERS), max_size=12)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """A stream with its end, in one of the ways to write it."""
    events = [draw(MESSAGE_STARTS), *draw(BODIES)]
    events += draw(st.sampled_from([[], [("message_stop", {"type": "message_stop"})]]))
    events += draw(st.just([]) | st.lists(ERRORS, max_size=1))
    line_end = draw(st.sampled_from(["\n", "\n", "\r\n"]))
    separators = draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    ensure_ascii, is_named = draw(st.booleans()), draw(st.sampled_from([True, True, False]))
    written = ""
    for name, body in events:
        data = json.dumps(body, separators=separators, ensure_ascii=ensure_ascii)
        written += draw(st.sampled_from(["", "", f": keep-alive{line_end}"]))
        written += (f"event: {name}{line_end}" if is_named else "") + f"data: {data}{line_end * 2}"
    return written.encode("utf-8", "surrogatepass")


@st.composite
def chunked(draw: st.DrawFn, stream: bytes) -> Sequence[bytes]:
    """The stream in chunks of any sizes."""
    cuts = draw(st.lists(st.integers(0, len(stream)), max_size=20).map(sorted))
    edges = [0, *cuts, len(stream)]
    return [stream[start:end] for start, end in pairwise(edges)]
