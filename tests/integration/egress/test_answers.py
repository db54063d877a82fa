"""Answers: what a hostile, broken or slow provider can make us do, which is little."""

import asyncio
import gzip

import httpx
import pytest

from app.egress.exceptions import AnswerTooLarge, AnswerTooSlow
from app.egress.transport import EgressLimits
from tests.integration.egress.far_side import (
    URL,
    Reader,
    Script,
    Writer,
    always,
    answer,
    client_of,
    far_server,
    forever,
    silence,
)

CANARY = "sk-ant-api03-canary"
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
MEGABYTE = 1024 * 1024


def drip(head: bytes) -> Script:
    async def play(_reader: Reader, writer: Writer) -> None:
        writer.write(head)
        while True:
            writer.write(b"x")
            await asyncio.sleep(0.005)

    return play


class TestWhatIsNotPassedOn:
    async def test_a_redirect_cannot_be_followed_even_by_a_client_that_would(self) -> None:
        moved = answer(b"", "Location: https://evil.example.com/", status="307 Temporary Redirect")
        async with far_server(always(moved)) as server, client_of(server, follow_redirects=True) as http:
            response = await http.get(URL, headers={"x-api-key": CANARY})

        assert response.status_code == 307
        assert "location" not in response.headers
        assert len(server.requests) == 1

    async def test_cookies_of_one_organization_are_not_sent_for_the_next(self) -> None:
        async with far_server(always(answer(b"{}", "Set-Cookie: id=1"))) as server, client_of(server) as http:
            await http.get(URL)
            await http.get(URL, headers={"Cookie": "id=2"})

        assert "cookie" not in "".join(server.requests).lower()

    async def test_compression_is_declined_and_nothing_is_unpacked(self) -> None:
        bomb = gzip.compress(bytes(10 * MEGABYTE))
        async with (
            far_server(always(answer(bomb, "Content-Encoding: gzip"))) as server,
            client_of(server) as http,
        ):
            response = await http.get(URL, headers={"Accept-Encoding": "gzip"})

        assert response.content == bomb
        assert "Accept-Encoding: identity\r\n" in server.requests[0]
        assert "gzip" not in server.requests[0]


class TestSize:
    async def test_ten_megabytes_are_refused(self) -> None:
        async with far_server(always(answer(bytes(10 * MEGABYTE)))) as server, client_of(server) as http:
            with pytest.raises(AnswerTooLarge):
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
    async def test_an_endless_answer_ends_early(self, pieces: tuple[bytes, ...]) -> None:
        async with far_server(forever(*pieces)) as server, client_of(server) as http:
            with pytest.raises(AnswerTooLarge):
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
    async def test_endless_framing_ends_early(self, pieces: tuple[bytes, ...]) -> None:
        async with far_server(forever(*pieces)) as server, client_of(server) as http:
            with pytest.raises(httpx.RemoteProtocolError):
                await http.get(URL)

    @pytest.mark.parametrize("headers", [["X: y"] * 200, [f"X: {'y' * 40_000}"]], ids=["many", "long"])
    async def test_header_bombs_are_refused(self, headers: list[str]) -> None:
        async with far_server(always(answer(b"{}", *headers))) as server, client_of(server) as http:
            with pytest.raises(AnswerTooLarge):
                await http.get(URL)

    async def test_every_answer_on_a_connection_may_have_the_full_size(self) -> None:
        body = bytes(MEGABYTE * 3 // 4)
        async with far_server(always(answer(body))) as server, client_of(server) as http:
            lengths = [len((await http.get(URL)).content) for _ in range(3)]

        assert lengths == [len(body)] * 3
        assert server.connections == 1


class TestTime:
    @pytest.mark.parametrize("head", [HEAD + b"X: ", HEAD + b"\r\n"], ids=["headers", "body"])
    async def test_a_steady_drip_is_cut_off(self, head: bytes) -> None:
        limits = EgressLimits(total_seconds=0.1)
        async with far_server(drip(head)) as server, client_of(server, limits=limits) as http:
            with pytest.raises(AnswerTooSlow):
                await http.get(URL)

    async def test_silence_is_a_timeout(self) -> None:
        async with far_server(silence) as server, client_of(server) as http:
            with pytest.raises(httpx.ReadTimeout):
                await http.get(URL, timeout=httpx.Timeout(1.0, read=0.05))

    async def test_a_stream_may_last_where_no_total_is_set(self) -> None:
        limits = EgressLimits(total_seconds=None)
        async with (
            far_server(drip(HEAD + b"\r\n")) as server,
            client_of(server, limits=limits) as http,
            http.stream("GET", URL) as response,
        ):
            first = await anext(response.aiter_raw())

        assert first.startswith(b"x")
