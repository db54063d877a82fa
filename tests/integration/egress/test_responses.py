"""Responses of hostile, broken or slow providers: what is dropped, and the limits of size and time."""

import asyncio
import gzip
import time

import httpx
import pytest

from app.core.keys.api_key import ApiKey
from app.core.keys.signing_secret import SigningSecret
from app.credentials.validation_results import Reason, ValidationStatus
from app.egress.anthropic import AnthropicClient
from app.egress.exceptions import ResponseTooLarge, ResponseTooSlow
from app.egress.transport import EgressLimits
from app.egress.webhooks import LIMITS as WEBHOOK_LIMITS
from app.egress.webhooks import WebhookClient
from app.provider_url.endpoint import AuthStyle, ProviderEndpoint
from tests.support.network.scripted_servers import (
    HOST,
    URL,
    Reader,
    Script,
    Writer,
    client_of,
    http_response,
    never_respond,
    respond_always,
    respond_forever,
    scripted_server,
)
from tests.support.provider.fake_anthropic import make_key

CANARY = "sk-ant-api03-canary"
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
MEGABYTE = 1024 * 1024


def send_slowly(head: bytes) -> Script:
    async def script(_reader: Reader, writer: Writer) -> None:
        writer.write(head)
        while True:
            writer.write(b"x")
            await asyncio.sleep(0.005)

    return script


class TestDroppedHeaders:
    async def test_redirect_is_not_followed_even_if_the_client_allows_it(self) -> None:
        redirect = http_response(b"", "Location: https://evil.example.com/", status="307 Temporary Redirect")
        async with (
            scripted_server(respond_always(redirect)) as server,
            client_of(server, follow_redirects=True) as http,
        ):
            response = await http.get(URL, headers={"x-api-key": CANARY})

        assert response.status_code == 307
        assert "location" not in response.headers
        assert len(server.requests) == 1

    async def test_cookies_are_not_shared_between_organizations(self) -> None:
        async with (
            scripted_server(respond_always(http_response(b"{}", "Set-Cookie: id=1"))) as server,
            client_of(server) as http,
        ):
            await http.get(URL)
            await http.get(URL, headers={"Cookie": "id=2"})

        assert "cookie" not in "".join(server.requests).lower()

    async def test_compressed_response_is_not_decompressed(self) -> None:
        bomb = gzip.compress(bytes(10 * MEGABYTE))
        async with (
            scripted_server(respond_always(http_response(bomb, "Content-Encoding: gzip"))) as server,
            client_of(server) as http,
        ):
            response = await http.get(URL, headers={"Accept-Encoding": "gzip"})

        assert response.content == bomb
        assert "Accept-Encoding: identity\r\n" in server.requests[0]
        assert "gzip" not in server.requests[0]


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
FINAL = http_response(b"{}")


class TestHead:
    @pytest.mark.parametrize("informational", [b"", CONTINUE, CONTINUE * 8, EARLY_HINTS * 4 + CONTINUE * 4])
    async def test_may_follow_eight_informational_responses(self, informational: bytes) -> None:
        async with (
            scripted_server(respond_always(informational + FINAL)) as server,
            client_of(server) as http,
        ):
            # Twice on one connection: the limits are those of one response.
            responses = [await http.get(URL), await http.get(URL)]

        assert [response.status_code for response in responses] == [200, 200]
        assert server.connections == 1

    @pytest.mark.parametrize(
        "data",
        [
            CONTINUE * 9 + FINAL,
            CONTINUE * 38_000 + FINAL,
            CONTINUE.replace(b"\r", b"") * 9 + FINAL,
            b"HTTP/1.1 199 Anything\r\n\r\n" * 9 + FINAL,
            (b"HTTP/1.1 103 Early Hints\r\nx: " + b"x" * 8192 + b"\r\n\r\n") * 4 + FINAL,
            HEAD + b"x: " + b"x" * 32_768 + b"\r\nContent-Length: 0\r\n\r\n",
        ],
        ids=["nine", "thousands", "line feeds", "unknown", "large", "large final head"],
    )
    async def test_after_more_than_the_limit_is_refused(self, data: bytes) -> None:
        async with scripted_server(respond_always(data)) as server, client_of(server) as http:
            with pytest.raises(ResponseTooLarge):
                await http.get(URL)

    async def test_of_a_custom_endpoint_makes_the_validation_indeterminate(self) -> None:
        accepted = http_response(b'{"type":"message","content":[],"model":"m"}')
        endpoint = ProviderEndpoint(
            base_url=f"https://{HOST}",
            messages_url=URL,
            auth_style=AuthStyle.X_API_KEY,
            workspace_id=None,
            probe_model="m",
        )
        async with (
            scripted_server(respond_always(CONTINUE * 38_000 + accepted)) as server,
            client_of(server) as http,
        ):
            started = time.thread_time()
            result = await AnthropicClient(http).probe(
                ApiKey.parse(make_key()), endpoint, previously_valid=False
            )
            seconds = time.thread_time() - started

        assert (result.status, result.reason) == (ValidationStatus.INDETERMINATE, Reason.UNREACHABLE)
        assert seconds < 0.5

    async def test_of_a_webhook_receiver_makes_the_delivery_fail(self) -> None:
        async with (
            scripted_server(respond_always(CONTINUE * 9 + http_response())) as server,
            client_of(server, limits=WEBHOOK_LIMITS) as http,
        ):
            result = await WebhookClient(http).deliver(
                URL, SigningSecret.generate(), message_id="msg_1", body="{}"
            )

        assert (result.is_delivered, result.outcome) == (False, "unreachable")


class TestSize:
    async def test_too_large_response_is_refused(self) -> None:
        async with (
            scripted_server(respond_always(http_response(bytes(10 * MEGABYTE)))) as server,
            client_of(server) as http,
        ):
            with pytest.raises(ResponseTooLarge):
                await http.get(URL)

    @pytest.mark.parametrize(
        "pieces",
        [
            (CHUNKED, b"1000\r\n" + bytes(0x1000) + b"\r\n"),
            (CHUNKED, b"1\r\nx\r\n" * 1000),
            (HEAD + b"\r\n", bytes(0x1000)),
            (b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000,),
        ],
        ids=["chunks", "tiny chunks", "until the end", "hints"],
    )
    async def test_endless_body_is_cut_off(self, pieces: tuple[bytes, ...]) -> None:
        async with scripted_server(respond_forever(*pieces)) as server, client_of(server) as http:
            with pytest.raises(ResponseTooLarge):
                await http.get(URL)

    @pytest.mark.parametrize(
        "pieces",
        [
            (HEAD, b"X: y\r\n" * 1000),
            (HEAD + b"X: ", b"y" * 1000),
            (b"HTTP/1.1 200 ", b"O" * 1000),
            (CHUNKED, b"1;" + b"x" * 1000),
        ],
        ids=["headers", "one header", "status line", "chunk extension"],
    )
    async def test_endless_framing_is_cut_off(self, pieces: tuple[bytes, ...]) -> None:
        async with scripted_server(respond_forever(*pieces)) as server, client_of(server) as http:
            with pytest.raises(httpx.RemoteProtocolError):
                await http.get(URL)

    @pytest.mark.parametrize("headers", [["X: y"] * 200, [f"X: {'y' * 40_000}"]], ids=["many", "long"])
    async def test_too_many_or_too_long_headers_are_refused(self, headers: list[str]) -> None:
        async with (
            scripted_server(respond_always(http_response(b"{}", *headers))) as server,
            client_of(server) as http,
        ):
            with pytest.raises(ResponseTooLarge):
                await http.get(URL)

    async def test_size_limit_applies_to_each_response_of_a_connection(self) -> None:
        body = bytes(MEGABYTE * 3 // 4)
        async with scripted_server(respond_always(http_response(body))) as server, client_of(server) as http:
            lengths = [len((await http.get(URL)).content) for _ in range(3)]

        assert lengths == [len(body)] * 3
        assert server.connections == 1


class TestDeadline:
    @pytest.mark.parametrize("head", [HEAD + b"X: ", HEAD + b"\r\n"], ids=["headers", "body"])
    async def test_slow_response_is_cut_off(self, head: bytes) -> None:
        limits = EgressLimits(total_seconds=0.1)
        async with scripted_server(send_slowly(head)) as server, client_of(server, limits=limits) as http:
            with pytest.raises(ResponseTooSlow):
                await http.get(URL)

    async def test_silence_is_a_timeout(self) -> None:
        async with scripted_server(never_respond) as server, client_of(server) as http:
            with pytest.raises(httpx.ReadTimeout):
                await http.get(URL, timeout=httpx.Timeout(1.0, read=0.05))

    async def test_stream_may_last_without_a_total_limit(self) -> None:
        limits = EgressLimits(total_seconds=None)
        async with (
            scripted_server(send_slowly(HEAD + b"\r\n")) as server,
            client_of(server, limits=limits) as http,
            http.stream("GET", URL) as response,
        ):
            first = await anext(response.aiter_raw())

        assert first.startswith(b"x")
