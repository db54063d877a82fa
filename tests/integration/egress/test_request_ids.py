"""Request ids of the provider are stored and shown, so they must not contain the key in any encoding."""

import base64
import json
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from app.core.keys.api_key import ApiKey
from app.egress.anthropic import AnthropicClient
from app.egress.http_client import http_client
from tests.support.provider.fake_anthropic import make_key
from tests.support.provider.probes import provider_endpoint, raw_server, respond_with

REAL_ID = "req_011CSHoEeqs5C35K2UUqR7Fy"
ENCODINGS: dict[str, Callable[[str], str]] = {
    "none": lambda key: key,
    "hexadecimal": lambda key: key.encode().hex(),
    "base32": lambda key: base64.b32encode(key.encode()).decode().rstrip("="),
    "base64url": lambda key: base64.urlsafe_b64encode(key.encode()).decode().rstrip("="),
    "reversed": lambda key: key[::-1],
    "other case": str.swapcase,
    "interleaved": "_".join,
    "without hyphens": lambda key: key.replace("-", "_"),
}
every_encoding = pytest.mark.parametrize("encode", ENCODINGS.values(), ids=ENCODINGS)
in_header_and_body = pytest.mark.parametrize("is_in_body", [False, True], ids=["header", "body"])


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with http_client() as http:
        yield http


async def stored_id(
    http: httpx.AsyncClient, key: str, request_id: str, *, is_default: bool, is_in_body: bool = False
) -> str | None:
    """Probe a provider that sends this id in the header or in the error body, and return the stored id."""
    head, body = f"HTTP/1.1 401 Unauthorized\r\nrequest-id: {request_id}\r\n", ""
    if is_in_body:
        head, body = "HTTP/1.1 401 Unauthorized\r\n", json.dumps({"type": "error", "request_id": request_id})
    response = f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n{body}"
    async with raw_server(respond_with(response.encode())) as port:
        endpoint = provider_endpoint(f"http://127.0.0.1:{port}", is_default=is_default)
        client = AnthropicClient(http, default_messages_url=endpoint.messages_url)
        result = await client.probe(ApiKey(key), endpoint, previously_valid=False)
    return result.provider_request_id


class TestAnthropicIds:
    @in_header_and_body
    async def test_are_stored(self, http: httpx.AsyncClient, is_in_body: bool) -> None:
        stored = await stored_id(http, make_key(), REAL_ID, is_default=True, is_in_body=is_in_body)

        assert stored == REAL_ID

    @pytest.mark.parametrize(
        "request_id",
        [
            "011CSHoEeqs5C35K2UUqR7Fy",
            "req_",
            "req_011C.SHoE",
            f"req_{'x' * 65}",
            "msg_011CSHoEeqs5C35K2UUqR7Fy",
            "req_011CSHoE qs5C35K2UUqR7Fy",
        ],
    )
    async def test_other_formats_are_dropped(self, http: httpx.AsyncClient, request_id: str) -> None:
        assert await stored_id(http, make_key(), request_id, is_default=True) is None

    @every_encoding
    @in_header_and_body
    async def test_encoded_key_is_dropped(
        self, http: httpx.AsyncClient, encode: Callable[[str], str], is_in_body: bool
    ) -> None:
        key = make_key()

        stored = await stored_id(http, key, f"req_{encode(key)}", is_default=True, is_in_body=is_in_body)

        assert stored is None

    async def test_piece_of_the_key_is_dropped(self, http: httpx.AsyncClient) -> None:
        key = make_key()

        assert await stored_id(http, key, f"req_{key[20:28]}", is_default=True) is None


class TestGatewayIds:
    @every_encoding
    @in_header_and_body
    async def test_are_always_dropped(
        self, http: httpx.AsyncClient, encode: Callable[[str], str], is_in_body: bool
    ) -> None:
        # A piece with the format of an id. With many requests a hostile gateway could leak the whole key this way.
        key = make_key()
        piece = encode(key[20:]).replace("-", "_")[:24]

        stored = await stored_id(http, key, f"req_{piece}", is_default=False, is_in_body=is_in_body)

        assert stored is None

    async def test_are_dropped_even_in_the_format_of_anthropic(self, http: httpx.AsyncClient) -> None:
        assert await stored_id(http, make_key(), REAL_ID, is_default=False) is None
