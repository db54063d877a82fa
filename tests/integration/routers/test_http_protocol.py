"""The head of a request is bounded in size, fields and time, whatever comes in whatever pieces."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator

import pytest

from app.api.http_limits import HEAD_LIMIT_BYTES, HEAD_LIMIT_FIELDS, BoundedHttpProtocol
from tests.integration.routers.listening import Client, Echo, connected, listening, request

MEBIBYTE = 1024 * 1024
STARTS = {
    "header lines": b"GET / HTTP/1.1\r\n",
    "one header's value": b"GET / HTTP/1.1\r\nx-long: ",
    "one header's name": b"GET / HTTP/1.1\r\n",
    "the request line": b"GET /",
}
PIECES = {
    "header lines": b"x-more: and more\r\n" * 512,
    "one header's value": b"v" * 8192,
    "one header's name": b"n" * 8192,
    "the request line": b"p" * 8192,
}


class _Hasty(BoundedHttpProtocol):
    head_seconds = 0.2


@pytest.fixture
def echo() -> Iterator[Echo]:
    echo = Echo()
    yield echo
    echo.release.set()


@pytest.fixture
async def client(echo: Echo) -> AsyncIterator[Client]:
    async with listening(echo) as port, connected(port) as client:
        yield client


@pytest.fixture
async def hasty(echo: Echo) -> AsyncIterator[Client]:
    """To a server that waits a fifth of a second for a head."""
    async with listening(echo, protocol=_Hasty) as port, connected(port) as client:
        yield client


async def assert_refused(client: Client, status: int, code: str) -> None:
    answer = await client.answer()

    assert (answer.status, json.loads(answer.body)["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["connection"] == "close"
    assert answer.headers["x-request-id"] == json.loads(answer.body)["request_id"]
    assert await client.is_closed()


async def told(client: Client) -> dict[str, object]:
    answer = await client.answer()
    assert answer.status == 200
    found: dict[str, object] = json.loads(answer.body)
    return found


class TestSize:
    @pytest.mark.parametrize("kind", STARTS)
    async def test_without_an_end_is_refused(self, kind: str, client: Client) -> None:
        await client.send(STARTS[kind], *[PIECES[kind]] * (MEBIBYTE // 8192))

        await assert_refused(client, 431, "headers_too_large")

    @pytest.mark.parametrize("kind", STARTS)
    async def test_is_counted_over_many_small_pieces(self, kind: str, client: Client) -> None:
        await client.send(STARTS[kind])

        for start in range(0, HEAD_LIMIT_BYTES, 1024):
            await client.send(PIECES[kind][start % 8192 :][:1024])

        await assert_refused(client, 431, "headers_too_large")

    async def test_whole_and_too_large_is_refused(self, client: Client) -> None:
        await client.send(request("/", f"x-long: {'v' * HEAD_LIMIT_BYTES}"))

        await assert_refused(client, 431, "headers_too_large")

    async def test_whole_and_too_large_after_another_request_is_refused(self, client: Client) -> None:
        await client.send(request())
        await told(client)

        await client.send(request("/" + "p" * HEAD_LIMIT_BYTES))

        await assert_refused(client, 431, "headers_too_large")

    async def test_too_many_fields_are_refused(self, client: Client) -> None:
        await client.send(request("/", *(f"x-{n}: v" for n in range(HEAD_LIMIT_FIELDS))))

        await assert_refused(client, 431, "headers_too_large")

    async def test_too_many_fields_without_an_end_are_refused(self, client: Client) -> None:
        fields = "".join(f"x-{n}: v\r\n" for n in range(HEAD_LIMIT_FIELDS + 2))

        await client.send(b"GET / HTTP/1.1\r\n" + fields.encode())

        await assert_refused(client, 431, "headers_too_large")

    async def test_within_the_limits_is_answered(self, client: Client) -> None:
        fields = [f"x-{n}: v" for n in range(HEAD_LIMIT_FIELDS - 2)]

        await client.send(request("/", *fields, f"x-long: {'v' * 20_000}"))

        assert (await told(client))["path"] == "/"

    async def test_of_twenty_kilobytes_byte_after_byte_in_two_requests_is_answered(
        self, client: Client
    ) -> None:
        for path in ("/first", "/second"):
            await client.send(*(bytes([byte]) for byte in request(path, f"x-long: {'v' * 20_000}")))

            assert (await told(client))["path"] == path


class TestBody:
    async def test_does_not_count(self, client: Client) -> None:
        body = b"b" * MEBIBYTE

        for path in ("/first", "/second"):
            await client.send(request(path, f"Content-Length: {len(body)}", method="POST", body=body))

            assert await told(client) == {
                "path": path,
                "size": MEBIBYTE,
                "headers": ["host", "content-length"],
            }

    async def test_in_chunks_does_not_count(self, client: Client) -> None:
        chunks = b"1\r\nb\r\n" * 100_000 + b"0\r\n\r\n"

        await client.send(request("/", "Transfer-Encoding: chunked", method="POST", body=chunks))

        assert (await told(client))["size"] == 100_000

    async def test_trailers_do_not_become_headers(self, client: Client) -> None:
        chunks = b"1\r\nb\r\n0\r\nauthorization: Bearer later\r\n\r\n"

        await client.send(request("/", "Transfer-Encoding: chunked", method="POST", body=chunks))

        assert (await told(client))["headers"] == ["host", "transfer-encoding"]

    @pytest.mark.parametrize("piece", [b"x-more: and more\r\n" * 512, b"n" * 8192])
    async def test_trailers_without_an_end_are_refused(self, piece: bytes, client: Client) -> None:
        start = request("/", "Transfer-Encoding: chunked", method="POST", body=b"1\r\nb\r\n0\r\n")

        await client.send(start, *[piece] * (MEBIBYTE // 8192))

        await assert_refused(client, 431, "headers_too_large")


class TestPipelining:
    async def test_requests_in_one_read_are_answered_in_order(self, client: Client) -> None:
        paths = [f"/{n}" for n in range(200)]

        await client.send(b"".join(request(path, f"x-long: {'v' * 500}") for path in paths))

        assert [(await told(client))["path"] for _ in paths] == paths

    async def test_after_a_large_body_are_answered(self, client: Client) -> None:
        body = b"b" * 200_000
        large = request("/large", f"Content-Length: {len(body)}", method="POST", body=body)

        await client.send(large + request("/next", f"x-long: {'v' * 20_000}"))

        assert [(await told(client))["path"] for _ in range(2)] == ["/large", "/next"]

    async def test_a_refusal_never_stands_where_another_answer_is_due(self, client: Client) -> None:
        await client.send(request("/held") + request("/", f"x-long: {'v' * HEAD_LIMIT_BYTES}"))

        assert await client.is_closed()


class TestRefusal:
    async def test_reaches_a_client_that_goes_on_sending(self, client: Client) -> None:
        await client.send(request("/", *(f"x-{n}: v" for n in range(HEAD_LIMIT_FIELDS))))
        await client.answer()

        for _ in range(16):
            client.writer.write(request())
            await client.writer.drain()

        assert await client.is_closed()

    async def test_of_trailers_is_the_only_answer(self, echo: Echo, client: Client) -> None:
        chunks = b"1\r\nb\r\n0\r\n" + b"x-more: and more\r\n" * HEAD_LIMIT_BYTES
        await client.send(request("/held", "Transfer-Encoding: chunked", method="POST", body=chunks))
        await client.answer()

        echo.release.set()

        assert await client.is_closed()


class TestTime:
    @pytest.mark.parametrize("begun", [b"G", b"GET / HTTP/1.1\r\nx-slow: v"])
    async def test_of_a_head_is_bounded(self, begun: bytes, hasty: Client) -> None:
        await hasty.send(begun)

        await assert_refused(hasty, 408, "request_timeout")

    async def test_is_not_won_by_further_bytes(self, hasty: Client) -> None:
        async def drip() -> None:
            await hasty.send(b"GET / HTTP/1.1\r\nx-slow: ")
            while True:
                await hasty.send(b"v")
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        try:
            await assert_refused(hasty, 408, "request_timeout")
        finally:
            dripping.cancel()

    async def test_counts_for_the_next_request_too(self, hasty: Client) -> None:
        await hasty.send(request())
        await told(hasty)

        await hasty.send(b"GET /")

        await assert_refused(hasty, 408, "request_timeout")

    async def test_of_an_answer_that_is_due_is_not_the_clients(self, echo: Echo, hasty: Client) -> None:
        # The second head is incomplete for as long as the first request takes.
        await hasty.send(request("/held") + b"GET /next HTTP/1.1\r\n")
        # Long enough for its time to be over, as another connection's is.
        async with connected(hasty.writer.get_extra_info("peername")[1]) as other:
            await other.send(b"G")
            await other.answer()

        echo.release.set()

        assert (await told(hasty))["path"] == "/held"

    async def test_of_a_body_is_not_that_of_a_head(self, hasty: Client) -> None:
        await hasty.send(request("/", "Content-Length: 2", method="POST", body=b"b"))
        async with connected(hasty.writer.get_extra_info("peername")[1]) as other:
            await other.send(b"G")
            await other.answer()

        await hasty.send(b"b")

        assert (await told(hasty))["size"] == 2

    @pytest.mark.parametrize(
        "sent",
        [
            pytest.param(b"", id="nothing"),
            pytest.param(b"\r\n", id="an empty line"),
            pytest.param(request() + b"\r\n", id="an empty line after a request"),
            pytest.param(
                request("/unread", "Content-Length: 9", method="POST"), id="no body for the answer it has"
            ),
        ],
    )
    async def test_without_a_request_is_that_of_keeping_alive(self, sent: bytes, echo: Echo) -> None:
        async with listening(echo, keep_alive_seconds=1) as port, connected(port) as client:
            await client.send(sent)
            if len(sent) > 2:
                await told(client)
            if b"unread" in sent:
                await client.send(b"b")

            assert await client.is_closed()


class TestParser:
    @pytest.mark.parametrize(
        "sent",
        [
            b"GET / HTTP/1.1\r\ncontent-length: abc\r\n\r\n",
            b"GET /\xff HTTP/1.1\r\n\r\n",
            b"GET / HTTP/3.0\r\n\r\n",
            b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        ],
    )
    async def test_what_it_does_not_take_is_a_problem_too(self, client: Client, sent: bytes) -> None:
        await client.send(sent)

        await assert_refused(client, 400, "malformed_request")

    async def test_a_method_that_nobody_knows_is_a_method_still(self, client: Client) -> None:
        await client.send(b"FOO / HTTP/1.1\r\n\r\n")

        await assert_refused(client, 405, "method_not_allowed")
