"""What the relay reads of a request, and its refusals in Anthropic's words."""

import asyncio
import base64
import json
import time
from typing import Any

import pytest

from app.relay.errors import RelayError
from app.relay.request_body import (
    MAX_INPUT_TOKENS,
    MAX_OUTPUT_TOKENS,
    RequestSummary,
    read_count_request,
    read_message_request,
)
from tests.support.request_cost import cost_of

LOOP_SECONDS, MEMORY_MEBIBYTES = 0.2, 64
VALID = {"model": "claude-haiku-5-5", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]}


def read(body: bytes) -> RequestSummary:
    return asyncio.run(read_message_request(body))


def summary(**fields: Any) -> RequestSummary:
    return read(json.dumps(VALID | fields).encode())


def refusal(body: bytes) -> tuple[int, str, str]:
    with pytest.raises(RelayError) as caught:
        read(body)
    return caught.value.kind.status, caught.value.kind.type, caught.value.message


def block(kind: str, data: bytes) -> dict[str, Any]:
    encoded = base64.b64encode(data).decode()
    return {"type": kind, "source": {"type": "base64", "media_type": "image/png", "data": encoded}}


def messages(*content: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(content)}]


class TestFields:
    def test_are_read_wherever_they_stand(self) -> None:
        # The Python SDK writes `model` and `stream` after `messages`.
        body = b'{"max_tokens": 7, "messages": [{"role": "user", "content": "model"}], "model": "m", "stream": true}'

        found = read(body)

        assert (found.model, found.max_tokens, found.is_stream) == ("m", 7, True)

    @pytest.mark.parametrize("fields", [{}, {"stream": None}, {"stream": False}])
    def test_without_stream_the_response_is_json(self, fields: dict[str, Any]) -> None:
        assert not summary(**fields).is_stream

    def test_zero_max_tokens_is_allowed(self) -> None:
        assert summary(max_tokens=0).max_tokens == 0

    def test_max_tokens_that_no_model_can_give_is_bounded(self) -> None:
        assert summary(max_tokens=10**30).max_tokens == MAX_OUTPUT_TOKENS

    def test_last_of_two_equal_keys_counts(self) -> None:
        assert read(b'{"model": "a", "max_tokens": 1, "model": "b"}').model == "b"

    def test_count_tokens_needs_no_max_tokens(self) -> None:
        assert asyncio.run(read_count_request(b'{"model": "m", "messages": []}')).model == "m"


class TestRefusals:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"model": ...}, "model: Field required"),
            ({"max_tokens": ...}, "max_tokens: Field required"),
            ({"model": 1}, "model: Input should be a valid string"),
            ({"model": None}, "model: Input should be a valid string"),
            ({"model": ""}, "model: String should have 1 to 128 characters"),
            ({"model": "m" * 129}, "model: String should have 1 to 128 characters"),
            ({"max_tokens": "100"}, "max_tokens: Input should be a valid integer"),
            ({"max_tokens": True}, "max_tokens: Input should be a valid integer"),
            ({"max_tokens": 1.5}, "max_tokens: Input should be a valid integer"),
            ({"max_tokens": None}, "max_tokens: Input should be a valid integer"),
            ({"max_tokens": -1}, "max_tokens: Input should be greater than or equal to 0"),
            ({"stream": "true"}, "stream: Input should be a valid boolean"),
            ({"stream": 1}, "stream: Input should be a valid boolean"),
            ({"model": "m" * 3_000_000}, "model: String should have 1 to 128 characters"),
            ({"max_tokens": [1] * 500}, "max_tokens: Input should be a valid integer"),
            ({"stream": "true " * 100_000}, "stream: Input should be a valid boolean"),
        ],
    )
    def test_name_the_field_as_anthropic_does(self, fields: dict[str, Any], message: str) -> None:
        body = {name: value for name, value in (VALID | fields).items() if value is not ...}

        assert refusal(json.dumps(body).encode()) == (400, "invalid_request_error", message)

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"nonsense",
            b"\xef\xbb\xbf{}",
            b'{"a": ' * 100_000,
            b'{"model": "m", "max_tokens": 1} more',
            b"\xef\xbb\xbf{" + b" " * 3_000_000 + b"}",
            b" " * 3_000_000 + b"{}",
            b"nonsense" * 500_000,
        ],
    )
    def test_body_that_is_not_json(self, body: bytes) -> None:
        assert refusal(body) == (400, "invalid_request_error", "The request body is not valid JSON.")

    @pytest.mark.parametrize("body", [b"[]", b'"text"', b"null", b"1", b'"' + b"x" * 3_000_000 + b'"'])
    def test_body_that_is_not_an_object(self, body: bytes) -> None:
        assert refusal(body) == (400, "invalid_request_error", "The request body must be a JSON object.")

    def test_large_body_with_more_values_than_a_model_can_read(self) -> None:
        body = json.dumps(VALID | {"messages": [0] * 2_000_001}).encode()

        assert refusal(body) == (413, "request_too_large", "The request body has more than 2,000,000 values.")

    def test_text_that_is_not_utf8(self) -> None:
        assert refusal(b'{"model": "\xff", "max_tokens": 1}')[0] == 400

    @pytest.mark.parametrize("name", ["model", "max_tokens", "stream"])
    def test_never_quote_the_input(self, name: str) -> None:
        _, _, message = refusal(json.dumps(VALID | {name: ["secret prompt"]}).encode())

        assert "secret" not in message


class TestInputEstimate:
    def test_counts_a_token_for_three_bytes(self) -> None:
        body = json.dumps(VALID | {"system": "x" * 30_000}).encode()

        assert read(body).input_tokens == len(body) // 3

    def test_image_is_a_constant_whatever_its_size(self) -> None:
        small, large = (
            summary(messages=messages(block("image", b"i" * size))).input_tokens for size in (300, 3_000_000)
        )

        assert 1600 < small < 1800
        assert abs(large - small) < 3

    def test_image_within_a_tool_result_counts_the_same(self) -> None:
        nested = {"type": "tool_result", "tool_use_id": "t", "content": [block("image", b"i" * 300_000)]}

        assert 1600 < summary(messages=messages(nested)).input_tokens < 1800

    def test_document_counts_by_its_decoded_size(self) -> None:
        assert 100_000 <= summary(messages=messages(block("document", b"d" * 300_000))).input_tokens < 100_200

    def test_is_at_most_a_million(self) -> None:
        assert summary(system="x" * 4_000_000).input_tokens == MAX_INPUT_TOKENS

    @pytest.mark.parametrize(
        "content",
        [
            "base64",
            5,
            None,
            [5],
            {"type": "base64"},
            [{"type": "image", "source": "base64"}],
            [{"type": 5, "source": {"type": "base64", "data": 5}}],
            [{"type": "tool_result", "content": {"base64": True}}],
        ],
    )
    def test_unknown_shapes_count_as_text(self, content: Any) -> None:
        body = json.dumps(VALID | {"messages": [{"role": "user", "content": content}]}).encode()

        assert abs(read(body).input_tokens - len(body) / 3) < 3

    def test_deep_blocks_are_not_decoded_at_every_level(self) -> None:
        levels = 200
        deep = '[{"type": "tool_result", "content": ' * levels + '"' + "x" * 3_000_000 + '"' + "}]" * levels
        body = (
            f'{{"model": "m", "max_tokens": 1, "x": "base64", "messages": [{{"content": {deep}}}]}}'.encode()
        )

        started = time.process_time()
        read(body)
        deep_seconds = time.process_time() - started
        started = time.process_time()
        json.loads(body)

        assert deep_seconds < 40 * (time.process_time() - started)

    def test_depth_is_no_way_to_stop_it(self) -> None:
        nested = "".join('[{"content": ' for _ in range(10_000)) + "0" + "}]" * 10_000
        body = f'{{"model": "m", "max_tokens": 1, "x": "base64", "messages": {nested}}}'.encode()

        assert refusal(body)[2] == "The request body is not valid JSON."

    @pytest.mark.parametrize(
        "content",
        ["{}", '{"content":[{"content":[{}]}]}', '{"content":[{"type":"image","source":{"data":"x"}}]}'],
    )
    @pytest.mark.parametrize("number", [90_000, 900_000])
    async def test_number_of_blocks_is_no_way_to_stop_it(self, content: str, number: int) -> None:
        number //= content.count("{")
        many = ",".join([content] * number)
        body = f'{{"model":"m","max_tokens":1,"x":"base64","messages":[{many}]}}'.encode()

        read, cost = await cost_of(read_message_request(body))

        assert read.input_tokens > 0
        assert cost.longest_seconds < LOOP_SECONDS
        assert cost.memory_mebibytes < MEMORY_MEBIBYTES
