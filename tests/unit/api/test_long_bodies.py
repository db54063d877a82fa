"""The time to shorten a body with too many values is linear in its size, whatever it contains."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.long_bodies import MAX_COMMAS, shorten
from tests.support.openapi import openapi_document
from tests.support.request_cost import without_collection

# Processor time. On an idle machine it takes 1 ms, and 10 s if every position is tried.
SECONDS = 0.1
SIZE = 64 * 1024
HALF = MAX_COMMAS // 2
DOCUMENT = openapi_document()


@pytest.mark.parametrize(
    "body",
    [
        b'{"' + b"," * (HALF + 1) + b'":' + b"," * HALF + b"x" * SIZE,
        b"[" + b"0," * HALF + b'"' + b"," * (HALF + 1) + b'"' + b" " * SIZE,
        b"[" + b"0," * HALF + b'"' + b"," * SIZE,
        b"[" + b"0," * HALF + b'"' + b"\\" * SIZE,
        b"[" + b"0," * HALF + b'"' + b'\\"' * (SIZE // 2),
    ],
    ids=["letters", "blanks", "an open text", "backslashes", "escaped quotes"],
)
async def test_takes_no_longer_without_a_delimiter_at_the_end(body: bytes) -> None:
    with without_collection():
        began_at = time.thread_time()
        shortened = await shorten(body)
        seconds = time.thread_time() - began_at

    assert seconds < SECONDS
    assert shortened == body


@given(st.lists(st.text('a,"[]{}\\', max_size=8), max_size=30), st.sampled_from([" ", ""]))
async def test_keeps_the_first_values(texts: list[str], blank: str) -> None:
    values = [[text, {text: [text]}] for text in texts]
    separators = (blank + "," + blank, ":" + blank)
    body = json.dumps([*values, *range(MAX_COMMAS + 1)], separators=separators).encode()

    shortened = json.loads(await shorten(body))

    # Each value has two commas around and in it, and what is left ends before the first comma too many.
    assert shortened == [*values, *range(MAX_COMMAS + 1 - 2 * len(values))]


def most_commas(schema: dict[str, Any]) -> int:
    """Count the commas of the largest valid value, in which no list is longer than it may be."""
    if reference := schema.get("$ref"):
        return most_commas(DOCUMENT["components"]["schemas"][reference.rsplit("/", 1)[1]])
    if choices := schema.get("anyOf"):
        return max(most_commas(choice) for choice in choices)
    if schema.get("type") == "array":
        return int(schema["maxItems"]) * (most_commas(schema["items"]) + 1)
    return sum(most_commas(field) + 1 for field in schema.get("properties", {}).values())


def test_no_valid_body_has_too_many_values() -> None:
    found = {
        operation["operationId"]: most_commas(
            operation["requestBody"]["content"]["application/json"]["schema"]
        )
        for path in DOCUMENT["paths"].values()
        for operation in path.values()
        # Event batches have their own reader.
        if "requestBody" in operation and operation["operationId"] != "ingestUsageEvents"
    }

    assert found
    assert max(found.values()) < MAX_COMMAS, found
