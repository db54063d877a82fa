"""A batch is split as a JSON parser would split it, in steps that are short whatever the body contains."""

import json
import random
import time
from collections.abc import Generator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import InvalidInput, MalformedJson
from app.usage_events import batch_splitter, value_scanner
from app.usage_events.batch_splitter import MAX_EVENT_BYTES, MAX_EVENTS, split_batch
from app.usage_events.value_scanner import end_of_value, skip_blank
from tests.support.request_cost import without_collection

MEBIBYTE = 1024 * 1024
# Processor time of one step. On an idle machine the longest takes 2 to 3 ms.
STEP_SECONDS = 0.02
TEXTS = ("a", "\\", '"', ']"[{},', '\\\\"', "é\u2028", "x" * 700, "\\" * 600, "")
INSERTED = (b"[", b"]", b"{", b"}", b",", b'"', b" ", b"1", b"\\")
JSON_TEXTS = st.text('"\\/[]{},:a€', max_size=40)
JSON_VALUES = st.recursive(
    JSON_TEXTS,
    lambda inner: st.lists(inner | st.integers() | st.none()) | st.dictionaries(JSON_TEXTS, inner),
)


class Batch(msgspec.Struct, forbid_unknown_fields=True):
    events: list[msgspec.Raw]


def any_value(source: random.Random, depth: int) -> Any:
    kind = source.random()
    if depth == 0 or kind < 0.4:
        return source.choice([1, -2.5, None, True, *TEXTS])
    if kind < 0.7:
        return [any_value(source, depth - 1) for _ in range(source.randint(0, 4))]
    return {str(any_value(source, 0)): any_value(source, depth - 1) for _ in range(source.randint(0, 3))}


def nested(value: Any, depth: int) -> Any:
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


def damaged(source: random.Random, body: bytes) -> bytes:
    position = source.randrange(len(body))
    if source.random() < 0.5:
        return body[:position] + body[position + 1 :]
    return body[:position] + source.choice(INSERTED) + body[position:]


def parsed(body: bytes) -> list[bytes] | None:
    try:
        return [bytes(item).strip() for item in msgspec.json.decode(body, type=Batch).events]
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


async def split(body: bytes) -> list[bytes | None] | None:
    try:
        return [item if item is None else bytes(item).strip() for item in await split_batch(body)]
    except (InvalidInput, MalformedJson):
        return None


def end_of(body: bytes) -> int:
    steps = end_of_value(body, 0)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return int(end.value)


@without_collection()
def longest_step(steps: Generator[None, None, Any]) -> float:
    longest = 0.0
    while True:
        began_at = time.thread_time()
        try:
            next(steps)
        except (StopIteration, InvalidInput, MalformedJson, batch_splitter._InvalidEnvelope):
            return longest
        finally:
            longest = max(longest, time.thread_time() - began_at)


@pytest.mark.parametrize("seed", range(4))
async def test_splits_like_a_parser(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    source = random.Random(seed)
    for _ in range(400):
        monkeypatch.setattr(batch_splitter, "_STEP_BYTES", source.choice([8, 64, 65_536]))
        values = [
            nested(any_value(source, 4), source.choice([0, 0, 0, 45])) for _ in range(source.randint(0, 6))
        ]
        body = json.dumps({"events": values}, indent=source.choice([None, 1])).encode()
        if source.random() < 0.6:
            body = damaged(source, body)

        assert await split(body) == parsed(body), body


@pytest.mark.parametrize("smallest", [1, 2, 3, 256])
def test_finds_the_end_of_a_value(smallest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    source = random.Random(smallest)
    monkeypatch.setattr(value_scanner, "_SMALLEST_STEP", smallest)
    for _ in range(300):
        value = nested(any_value(source, 6), source.choice([0, 0, 5, 40]))
        text = json.dumps(value, ensure_ascii=source.random() < 0.5).encode()

        assert end_of(text + source.choice([b",", b"]", b",1]"])) == len(text)


@pytest.mark.parametrize(
    "large", [b'"' + b"x" * MAX_EVENT_BYTES + b'"', b"[" * 5 + b'{"a":[]},' * 40_000 + b"1" + b"]" * 5]
)
async def test_skips_an_event_that_is_too_large(large: bytes) -> None:
    assert await split(b'{"events":[1, ' + large + b' , {"a":2}]}') == [b"1", None, b'{"a":2}']


@given(JSON_VALUES, st.booleans(), st.sampled_from(["", ",", "]", "}", '"', " "]))
def test_finds_the_end_that_a_parser_finds(value: Any, ascii_only: bool, following: str) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    _, end = json.JSONDecoder().raw_decode(text + following)

    for smallest in (1, 2, 7, 256):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(value_scanner, "_SMALLEST_STEP", smallest)
            assert end_of((text + following).encode()) == len(text[:end].encode())


async def test_stops_at_the_first_event_too_many() -> None:
    # What follows it is not JSON, but is not looked at.
    with pytest.raises(InvalidInput) as caught:
        await split_batch(b'{"events":[' + b"{}," * MAX_EVENTS + b"{},nothing")

    assert caught.value.errors[0].code == "too_many_events"


@pytest.mark.parametrize(
    "body",
    [
        b'{"events":["\\ud800"' + b",1" * (8 * MEBIBYTE - 100) + b"]}",
        b'{"events":["' + b"\\ud800" * (2 * MEBIBYTE) + b'"]}',
        b'{"events":[[' + b"[]," * (5 * MEBIBYTE) + b"1]]}",
        b'{"events":[' + b"[" * (8 * MEBIBYTE) + b"]" * (8 * MEBIBYTE) + b"]}",
        b'{"events":[' + (b"[" * 900 + b'"",' * 4000 + b"1" + b"]" * 900 + b",") * 200 + b"1]}",
        b'{"events":[[' + b'"",' * (5 * MEBIBYTE) + b"1]]}",
        b'{"events":[[' + b"1," * 20_000 + b'"' + b'\\"' * 100_000 + b'"]]}',
        b'{"events":[[' + (b'"' + b'\\"' * 40_000 + b'x",') * 4 + b"1]]}",
        b'{"events":[1' + b" " * 16 * MEBIBYTE + b"]}",
        b'{"events":["' + b"\\" * 16 * MEBIBYTE + b'"]}',
        b'{"events":[' + b"1" * 16 * MEBIBYTE + b"]}",
        b'{"' + b"a" * 16 * MEBIBYTE + b'":1}',
        b" " * 16 * MEBIBYTE,
    ],
    ids=[
        "numbers",
        "surrogates",
        "lists",
        "deep",
        "deep events",
        "texts",
        "escaped quotes",
        "texts of escaped quotes",
        "blanks",
        "escapes",
        "digits",
        "name",
        "empty",
    ],
)
def test_no_step_takes_long(body: bytes) -> None:
    assert longest_step(batch_splitter._split(body)) < STEP_SECONDS


def test_skips_blanks_in_short_steps() -> None:
    assert longest_step(skip_blank(b" " * 16 * MEBIBYTE, 0)) < STEP_SECONDS
