"""The meters, against an oracle that reads the whole response at once."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.relay.usage_meter import (
    MAX_BRACES,
    MAX_EVENT_BYTES,
    MAX_JSON_BYTES,
    MAX_USAGE_BYTES,
    JsonMeter,
    Metered,
    SseMeter,
    UsageSource,
)
from tests.support.relay import meter_oracle
from tests.support.relay.streams import chunked, streams
from tests.support.request_cost import cost_of

START = b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","model":"m","usage":{"input_tokens":25,"cache_read_input_tokens":5,"output_tokens":1}}}\n\n'
DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello"}}\n\n'
FINAL = b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":6,"input_tokens":null}}\n\n'
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
WHOLE = START + DELTA * 3 + FINAL + STOP


def metered(*chunks: bytes) -> Metered:
    meter = SseMeter()
    for chunk in chunks:
        meter.feed(chunk)
    return meter.result()


def in_pieces(stream: bytes, size: int) -> list[bytes]:
    return [stream[start : start + size] for start in range(0, len(stream), size)]


def crlf(stream: bytes) -> bytes:
    return stream.replace(b"\n", b"\r\n")


class TestStream:
    @settings(max_examples=500)
    @given(st.data())
    def test_equals_the_oracle_at_any_cut_and_chunking(self, data: st.DataObject) -> None:
        stream = data.draw(streams())
        stream = stream[: data.draw(st.integers(0, len(stream)) | st.just(len(stream)))]
        meter = SseMeter()

        for chunk in data.draw(chunked(stream)):
            meter.feed(chunk)

        assert meter.result() == meter_oracle.metered(stream)

    @pytest.mark.parametrize("stream", [WHOLE, crlf(WHOLE)], ids=["lf", "crlf"])
    def test_no_split_position_changes_it(self, stream: bytes) -> None:
        expected = meter_oracle.metered(stream)

        assert expected.usage == {"input_tokens": 25, "cache_read_input_tokens": 5, "output_tokens": 6}
        for position in range(len(stream)):
            assert metered(stream[:position], stream[position:]) == expected
        assert metered(*in_pieces(stream, 1)) == expected

    def test_final_usage_overwrites_and_never_adds(self) -> None:
        more = b'event: message_delta\ndata: {"delta":{},"usage":{"output_tokens":4,"cache_read_input_tokens":2}}\n\n'

        result = metered(START, FINAL, more)

        assert result.usage == {"input_tokens": 25, "cache_read_input_tokens": 2, "output_tokens": 4}

    def test_placeholder_of_the_start_is_never_the_output(self) -> None:
        result = metered(START, *[DELTA] * 40)

        assert (result.source, result.saw_message_delta) == (UsageSource.ESTIMATED, False)
        assert result.usage is not None
        assert result.usage["output_tokens"] == 40 * len("Hello") // 4

    def test_output_is_at_least_one_token(self) -> None:
        assert (metered(START).usage or {})["output_tokens"] == 1

    def test_nothing_is_known_before_the_start(self) -> None:
        assert metered(START[:-1]) == Metered()

    def test_end_is_complete_only_with_message_stop(self) -> None:
        ends = [metered(WHOLE[:position]).is_complete for position in range(len(WHOLE) + 1)]

        assert ends == [False] * len(WHOLE) + [True]

    def test_error_within_the_stream_is_read(self) -> None:
        error = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"x","details":null}}\n\n'

        result = metered(START, DELTA, error)

        assert (result.has_error, result.error_type, result.error_code) == (True, "overloaded_error", None)

    @pytest.mark.parametrize(
        "event",
        [
            b"event: message_delta\ndata: {torn\n\n",
            b"event: message_delta\ndata: []\n\n",
            b"event: message_delta\n\n",
            b"event: message_start\ndata: {}\n\n",
            b'event: message_start\ndata: {"message": {"usage": 5, "model": 5}}\n\n',
            b'event: message_delta\ndata: {"usage": [1], "delta": "x"}\n\n',
            b'event: message_delta\ndata: "\xff"\n\n',
            b"event: message_delta\ndata: " + b"[" * 100_000 + b"\n\n",
            b"\n\n\n\n",
            b"data\n\nevent\n\n:\n\n",
        ],
    )
    def test_events_that_cannot_be_read_change_nothing_and_raise_nothing(self, event: bytes) -> None:
        assert metered(event, START, FINAL).usage == metered(START, FINAL).usage

    @pytest.mark.parametrize("size", [65536, 1_000_003])
    def test_event_over_a_megabyte_is_skipped_to_the_next_boundary(self, size: int) -> None:
        huge = (
            b'event: message_delta\ndata: {"usage":{"output_tokens":99},"x":"'
            + b"x" * MAX_EVENT_BYTES
            + b'"}\n\n'
        )
        chunks = in_pieces(START + huge + FINAL + STOP, size)

        result = metered(*chunks)

        assert (result.usage or {})["output_tokens"] == 6
        assert result.is_complete

    def test_keeps_no_more_than_a_megabyte(self) -> None:
        meter = SseMeter()
        for _ in range(50):
            meter.feed(b"x" * 65536)

        assert len(meter._unfinished) <= 3

    def test_single_bytes_of_a_large_event_are_searched_once(self) -> None:
        looked_at = 0

        class Watched(SseMeter):
            def _event(self, event: bytes) -> None:
                nonlocal looked_at
                looked_at += len(event)

        meter = Watched()
        for piece in in_pieces(b"data: " + b"x" * 200_000 + b"\n\n", 1):
            meter.feed(piece)

        assert looked_at == 200_006


FALLBACK_BLOCK = {"type": "fallback", "trigger": {"type": "refusal", "category": "frontier_llm"}}


class TestJson:
    MESSAGE: dict[str, Any] = {  # noqa: RUF012  # not changed
        "id": "msg_1",
        "type": "message",
        "model": "claude-haiku-5-5",
        "content": [{"type": "text", "text": "é" * 100}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 12, "output_tokens": 6},
    }

    @staticmethod
    def metered(body: bytes, size: int = 7) -> Metered:
        meter = JsonMeter()
        for piece in in_pieces(body, size):
            meter.feed(piece)
        return meter.result()

    def test_whole_message_is_reported(self) -> None:
        assert self.metered(json.dumps(self.MESSAGE).encode()) == Metered(
            usage={"input_tokens": 12, "output_tokens": 6},
            source=UsageSource.REPORTED,
            model="claude-haiku-5-5",
            message_id="msg_1",
            stop_reason="end_turn",
            is_complete=True,
        )

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"stop_reason": "refusal", "stop_details": {"type": "refusal", "category": "bio"}}, "bio"),
            ({"stop_reason": "refusal", "stop_details": {"type": "refusal", "category": None}}, None),
            ({"stop_reason": "refusal", "stop_details": "bio"}, None),
            ({"content": [{"type": "text", "text": "A"}, FALLBACK_BLOCK]}, "frontier_llm"),
            ({"content": [FALLBACK_BLOCK], "stop_details": {"category": "bio"}}, "bio"),
            (
                {"content": [{"type": "text", "text": "fallback"}, {"type": "fallback", "trigger": None}]},
                None,
            ),
            ({"content": "fallback"}, None),
            ({"content": [FALLBACK_BLOCK, *[{}] * MAX_BRACES]}, None),
        ],
    )
    def test_has_the_category_of_a_refusal(self, fields: dict[str, Any], expected: str | None) -> None:
        result = self.metered(json.dumps(self.MESSAGE | fields).encode(), size=65536)

        assert result.refusal_category == expected

    @pytest.mark.parametrize(
        "block", [{"type": "fallback"}, {"type": "fallback", "trigger": {"category": ""}}, {}]
    )
    async def test_number_of_blocks_is_no_way_to_stop_the_loop(self, block: dict[str, Any]) -> None:
        blocks = [block] * (MAX_BRACES // (2 if "trigger" in block else 1) - 9)
        meter = JsonMeter()
        meter.feed(json.dumps(self.MESSAGE | {"content": [*blocks, {"type": "fallback"}]}).encode())

        async def read() -> Metered:
            return meter.result()

        result, cost = await cost_of(read())

        assert result.refusal_category is None
        assert cost.longest_seconds < 0.1

    def test_has_read_its_response_once(self) -> None:
        meter = JsonMeter()
        meter.feed(json.dumps(self.MESSAGE).encode())

        assert meter.result() is meter.result()

    def test_cut_message_reports_nothing(self) -> None:
        assert self.metered(json.dumps(self.MESSAGE).encode()[:-1]) == Metered()

    def test_error_has_type_and_code(self) -> None:
        body = {"type": "error", "error": {"type": "a", "message": "b", "details": {"error_code": "c"}}}

        result = self.metered(json.dumps(body).encode())

        assert (result.error_type, result.error_code, result.usage) == ("a", "c", None)

    @pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b'{"usage": 5, "type": 7}', b"\xff"])
    def test_other_bodies_report_nothing(self, body: bytes) -> None:
        assert self.metered(body) == Metered()

    def test_body_over_the_limit_is_not_kept(self) -> None:
        meter = JsonMeter()
        for _ in range(MAX_JSON_BYTES // 65536 + 1):
            meter.feed(b" " * 65536)
        meter.feed(json.dumps(self.MESSAGE).encode())

        assert meter.result() == Metered()
        assert len(meter._body) == 0


def test_every_pair_of_splits_of_a_short_stream_gives_the_same() -> None:
    stream = crlf(b'event: message_delta\ndata: {"usage":{"output_tokens":6}}\n\n' + STOP)
    expected = metered(stream)

    for first, second in pairwise(range(len(stream) + 1)):
        for third in range(second, len(stream) + 1, 5):
            assert (
                metered(stream[:first], stream[first:second], stream[second:third], stream[third:])
                == expected
            )


class TestHostileProvider:
    """What a customer's own endpoint sends costs no more than its size, whatever it is."""

    @pytest.mark.parametrize(
        "field", ["usage", "message", "delta", "error", "content", "id", "model", "stop_reason"]
    )
    @pytest.mark.parametrize("value", ["[[],%s[]]", '{"a":{},%s"b":0}', '"%s"'])
    async def test_json_is_not_decoded_beyond_what_is_read(self, field: str, value: str) -> None:
        unit = "x" if value.startswith('"') else "[]," if value.startswith("[") else '"c":{},'
        body = f'{{"type":"message","{field}":{value % (unit * ((MAX_JSON_BYTES - 100) // len(unit)))}}}'

        async def meter() -> Metered:
            json_meter = JsonMeter()
            json_meter.feed(body.encode())
            return json_meter.result()

        found, cost = await cost_of(meter())

        assert found.is_complete
        assert cost.total_seconds < 0.2
        assert cost.memory_mebibytes < 64

    @pytest.mark.parametrize("name", ["message_start", "message_delta", "message_stop", "error"])
    async def test_events_are_not_kept(self, name: str) -> None:
        large = "[]," * (MAX_EVENT_BYTES // 6 - 100)
        event = f'event: {name}\ndata: {{"type":"{name}","message":{{"x":[{large}[]]}},"usage":{{"x":[{large}[]]}}}}\n\n'

        async def meters() -> list[SseMeter]:
            found = [SseMeter() for _ in range(20)]
            for meter in found:
                meter.feed(event.encode())
            return found

        _, cost = await cost_of(meters())

        assert cost.total_seconds < 20 * 0.025
        assert cost.memory_mebibytes < 64

    def test_usage_that_no_provider_sends_is_not_counted(self) -> None:
        usage = json.dumps({"input_tokens": 1, "x": "x" * MAX_USAGE_BYTES})

        assert metered(START, f'event: message_delta\ndata: {{"usage":{usage}}}\n\n'.encode()) == metered(
            START
        )
