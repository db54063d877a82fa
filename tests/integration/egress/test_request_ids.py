"""Ids of requests are stored and shown to whoever may see verdicts, so none may hold the key, in any disguise."""

import base64
import json
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from app.core.api_key import ApiKey
from app.egress.anthropic import AnthropicClient
from app.egress.http_client import http_client
from tests.fake_anthropic import make_key
from tests.integration.egress.probing import destination, raw_server, saying

REAL_ID = "req_011CSHoEeqs5C35K2UUqR7Fy"
DISGUISES: dict[str, Callable[[str], str]] = {
    "none": lambda key: key,
    "hexadecimal": lambda key: key.encode().hex(),
    "base32": lambda key: base64.b32encode(key.encode()).decode().rstrip("="),
    "base64url": lambda key: base64.urlsafe_b64encode(key.encode()).decode().rstrip("="),
    "reversed": lambda key: key[::-1],
    "other case": str.swapcase,
    "interleaved": "_".join,
    "without hyphens": lambda key: key.replace("-", "_"),
}
every_disguise = pytest.mark.parametrize("disguise", DISGUISES.values(), ids=DISGUISES)
everywhere = pytest.mark.parametrize("is_in_body", [False, True], ids=["header", "body"])


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with http_client() as http:
        yield http


async def id_kept(
    http: httpx.AsyncClient, key: str, request_id: str, *, is_default: bool, is_in_body: bool = False
) -> str | None:
    """What becomes of an id that the provider gives, in the header or in an error's body."""
    head, body = f"HTTP/1.1 401 Unauthorized\r\nrequest-id: {request_id}\r\n", ""
    if is_in_body:
        head, body = "HTTP/1.1 401 Unauthorized\r\n", json.dumps({"type": "error", "request_id": request_id})
    answer = f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n{body}"
    async with raw_server(saying(answer.encode())) as port:
        to = destination(f"http://127.0.0.1:{port}", is_default=is_default)
        client = AnthropicClient(http, default_messages_url=to.messages_url)
        verdict = await client.probe(ApiKey(key), to, previously_valid=False)
    return verdict.provider_request_id


class TestOfAnthropic:
    @everywhere
    async def test_are_kept(self, http: httpx.AsyncClient, is_in_body: bool) -> None:
        kept = await id_kept(http, make_key(), REAL_ID, is_default=True, is_in_body=is_in_body)

        assert kept == REAL_ID

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
    async def test_are_dropped_in_any_other_form(self, http: httpx.AsyncClient, request_id: str) -> None:
        assert await id_kept(http, make_key(), request_id, is_default=True) is None

    @every_disguise
    @everywhere
    async def test_hold_no_key(
        self, http: httpx.AsyncClient, disguise: Callable[[str], str], is_in_body: bool
    ) -> None:
        key = make_key()

        kept = await id_kept(http, key, f"req_{disguise(key)}", is_default=True, is_in_body=is_in_body)

        assert kept is None

    async def test_hold_no_piece_of_a_key(self, http: httpx.AsyncClient) -> None:
        key = make_key()

        assert await id_kept(http, key, f"req_{key[20:28]}", is_default=True) is None


class TestOfOthers:
    @every_disguise
    @everywhere
    async def test_are_dropped_whatever_they_hold(
        self, http: httpx.AsyncClient, disguise: Callable[[str], str], is_in_body: bool
    ) -> None:
        # A piece that passes for an id: asked often enough, a hostile gateway could tell all of them.
        key = make_key()
        piece = disguise(key[20:]).replace("-", "_")[:24]

        kept = await id_kept(http, key, f"req_{piece}", is_default=False, is_in_body=is_in_body)

        assert kept is None

    async def test_are_dropped_in_the_form_of_anthropics_too(self, http: httpx.AsyncClient) -> None:
        assert await id_kept(http, make_key(), REAL_ID, is_default=False) is None
