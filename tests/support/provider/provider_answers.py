"""Cases of the decision table in the form of a corpus of provider responses, each with the row that decides it.

The cases are composed for these tests: the shapes of APIs, gateways and edges, near misses of the envelope, cut-off
bodies and other charsets.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from app.validation.decision_table import Decision, decide
from app.validation.message_patterns import DEFAULT_PATTERNS, MessagePatterns
from app.validation.probes import Probe
from app.validation.provider_response import ProviderResponse

FILE = Path(__file__).with_suffix(".jsonl")
PROBES = {"models": Probe.MODELS, "messages": Probe.MESSAGE, "empty": Probe.EMPTY_MESSAGE}
MAX_BYTES = 64 * 1024

Case = dict[str, Any]


@cache
def cases() -> tuple[Case, ...]:
    with FILE.open(encoding="utf-8") as lines:
        return tuple(json.loads(line) for line in lines)


def case_named(case_id: str) -> Case:
    return next(case for case in cases() if case["id"] == case_id)


def content_of(body: object) -> bytes:
    """The bytes of a case's body."""
    if isinstance(body, dict) and "text" in body and set(body) <= {"text", "times", "charset"}:
        text: str = body["text"]
        encoding: str = body.get("charset", "utf-8")
        return (text * int(body.get("times", 1))).encode(encoding)
    return json.dumps(body, ensure_ascii=False).encode()


def response_of(case: Mapping[str, Any]) -> ProviderResponse:
    content = content_of(case["body"])
    return ProviderResponse.read(
        case["status"], case["headers"], None if len(content) > MAX_BYTES else content
    )


def decision_of(
    case: Mapping[str, Any],
    *,
    previously_valid: bool = False,
    host: str | None = "gw.example.com",
    patterns: MessagePatterns = DEFAULT_PATTERNS,
) -> Decision:
    return decide(
        response_of(case),
        probe=PROBES[case["probe"]],
        is_anthropic=case["host"] == "anthropic",
        previously_valid=previously_valid,
        host=host,
        patterns=patterns,
    )
