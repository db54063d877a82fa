"""The time to shorten a body with too many values is linear in its size, whatever it contains."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.long_bodies import MAX_COMMAS, shorten

# Processor time. On an idle machine it takes 1 ms, and 10 s if every position is tried.
SECONDS = 0.1
SIZE = 64 * 1024
HALF = MAX_COMMAS // 2


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
def test_takes_no_longer_without_a_delimiter_at_the_end(body: bytes) -> None:
    began_at = time.thread_time()

    shortened = shorten(body)

    assert time.thread_time() - began_at < SECONDS
    assert shortened == body


@given(st.lists(st.text('a,"[]{}\\', max_size=8), max_size=30), st.sampled_from([" ", ""]))
def test_keeps_the_first_values(texts: list[str], blank: str) -> None:
    values = [[text, {text: [text]}] for text in texts]
    separators = (blank + "," + blank, ":" + blank)
    body = json.dumps([*values, *range(MAX_COMMAS + 1)], separators=separators).encode()

    shortened = json.loads(shorten(body))

    # Each value has two commas around and in it, and what is left ends before the first comma too many.
    assert shortened == [*values, *range(MAX_COMMAS + 1 - 2 * len(values))]
