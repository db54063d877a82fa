"""Limits on the size, the number of fields and the time of a request's head, however it is split into packets."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from app.api.connections import OpenConnections, UnreadResponses
from app.api.http_limits import (
    HEAD_LIMIT_BYTES,
    HEAD_LIMIT_FIELDS,
    READ_MINIMUM_BYTES,
    BoundedHttpProtocol,
)
from app.observability.metrics import REGISTRY
from tests.support.network.http_server import Client, Echo, connect_to, request, serve_app
from tests.support.polling import resolved, until

MEBIBYTE = 1024 * 1024
# Of two connections, whose buffers are full.
UNREAD_BYTES = 150_000
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


class _ImpatientProtocol(BoundedHttpProtocol):
    head_seconds = 0.2


@pytest.fixture
async def client(echo: Echo) -> AsyncIterator[Client]:
    async with serve_app(echo) as port, connect_to(port) as client:
        yield client


@pytest.fixture
async def impatient(echo: Echo) -> AsyncIterator[Client]:
    """A connection to a server that waits 0.2 seconds for a head."""
    async with serve_app(echo, protocol=_ImpatientProtocol) as port, connect_to(port) as client:
        yield client


async def assert_rejected(client: Client, status: int, code: str) -> None:
    response = await client.read_response()

    assert (response.status, json.loads(response.body)["code"]) == (status, code)
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["connection"] == "close"
    assert response.headers["x-request-id"] == json.loads(response.body)["request_id"]
    assert response.headers["cache-control"] == "no-store"
    assert "date" in response.headers
    assert await client.is_closed()


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def read_json(client: Client) -> dict[str, object]:
    response = await client.read_response()
    assert response.status == 200
    found: dict[str, object] = json.loads(response.body)
    return found


class TestSize:
    @pytest.mark.parametrize("kind", STARTS)
    async def test_endless_head_is_rejected(self, kind: str, client: Client) -> None:
        await client.send(STARTS[kind], *[PIECES[kind]] * (MEBIBYTE // 8192))

        await assert_rejected(client, 431, "headers_too_large")

    @pytest.mark.parametrize("kind", STARTS)
    async def test_is_counted_across_small_packets(self, kind: str, client: Client) -> None:
        await client.send(STARTS[kind])

        for start in range(0, HEAD_LIMIT_BYTES, 1024):
            await client.send(PIECES[kind][start % 8192 :][:1024])

        await assert_rejected(client, 431, "headers_too_large")

    async def test_complete_head_that_is_too_large_is_rejected(self, client: Client) -> None:
        await client.send(request("/", f"x-long: {'v' * HEAD_LIMIT_BYTES}"))

        await assert_rejected(client, 431, "headers_too_large")

    async def test_complete_head_that_is_too_large_is_rejected_after_another_request(
        self, client: Client
    ) -> None:
        await client.send(request())
        await read_json(client)

        await client.send(request("/" + "p" * HEAD_LIMIT_BYTES))

        await assert_rejected(client, 431, "headers_too_large")

    async def test_too_many_fields_are_rejected(self, client: Client) -> None:
        await client.send(request("/", *(f"x-{n}: v" for n in range(HEAD_LIMIT_FIELDS))))

        await assert_rejected(client, 431, "headers_too_large")

    async def test_too_many_fields_of_an_incomplete_head_are_rejected(self, client: Client) -> None:
        fields = "".join(f"x-{n}: v\r\n" for n in range(HEAD_LIMIT_FIELDS + 2))

        await client.send(b"GET / HTTP/1.1\r\n" + fields.encode())

        await assert_rejected(client, 431, "headers_too_large")

    async def test_head_within_the_limits_is_accepted(self, client: Client) -> None:
        fields = [f"x-{n}: v" for n in range(HEAD_LIMIT_FIELDS - 2)]

        await client.send(request("/", *fields, f"x-long: {'v' * 20_000}"))

        assert (await read_json(client))["path"] == "/"

    async def test_two_heads_of_twenty_kilobytes_are_accepted_byte_by_byte(self, client: Client) -> None:
        for path in ("/first", "/second"):
            await client.send(*(bytes([byte]) for byte in request(path, f"x-long: {'v' * 20_000}")))

            assert (await read_json(client))["path"] == path


class TestBody:
    async def test_does_not_count_towards_the_limit(self, client: Client) -> None:
        body = b"b" * MEBIBYTE

        for path in ("/first", "/second"):
            await client.send(request(path, f"Content-Length: {len(body)}", method="POST", body=body))

            assert await read_json(client) == {
                "path": path,
                "size": MEBIBYTE,
                "headers": ["host", "content-length"],
            }

    async def test_in_chunks_does_not_count_towards_the_limit(self, client: Client) -> None:
        chunks = b"1\r\nb\r\n" * 100_000 + b"0\r\n\r\n"

        await client.send(request("/", "Transfer-Encoding: chunked", method="POST", body=chunks))

        assert (await read_json(client))["size"] == 100_000

    async def test_trailers_do_not_become_headers(self, client: Client) -> None:
        chunks = b"1\r\nb\r\n0\r\nauthorization: Bearer later\r\n\r\n"

        await client.send(request("/", "Transfer-Encoding: chunked", method="POST", body=chunks))

        assert (await read_json(client))["headers"] == ["host", "transfer-encoding"]

    @pytest.mark.parametrize("piece", [b"x-more: and more\r\n" * 512, b"n" * 8192])
    async def test_endless_trailers_are_rejected(self, piece: bytes, client: Client) -> None:
        start = request("/", "Transfer-Encoding: chunked", method="POST", body=b"1\r\nb\r\n0\r\n")

        await client.send(start, *[piece] * (MEBIBYTE // 8192))

        await assert_rejected(client, 431, "headers_too_large")


class TestPipelining:
    async def test_requests_in_one_packet_get_responses_in_order(self, client: Client) -> None:
        paths = [f"/{n}" for n in range(200)]

        await client.send(b"".join(request(path, f"x-long: {'v' * 500}") for path in paths))

        assert [(await read_json(client))["path"] for _ in paths] == paths

    async def test_request_after_a_large_body_gets_a_response(self, client: Client) -> None:
        body = b"b" * 200_000
        large = request("/large", f"Content-Length: {len(body)}", method="POST", body=body)

        await client.send(large + request("/next", f"x-long: {'v' * 20_000}"))

        assert [(await read_json(client))["path"] for _ in range(2)] == ["/large", "/next"]

    async def test_rejection_is_never_sent_as_the_response_to_another_request(self, client: Client) -> None:
        await client.send(request("/held") + request("/", f"x-long: {'v' * HEAD_LIMIT_BYTES}"))

        assert await client.is_closed()


class TestRejection:
    async def test_reaches_a_client_that_continues_to_send(self, client: Client) -> None:
        await client.send(request("/", *(f"x-{n}: v" for n in range(HEAD_LIMIT_FIELDS))))
        await client.read_response()

        for _ in range(16):
            client.writer.write(request())
            await client.writer.drain()

        assert await client.is_closed()

    async def test_of_trailers_is_the_only_response(self, echo: Echo, client: Client) -> None:
        chunks = b"1\r\nb\r\n0\r\n" + b"x-more: and more\r\n" * HEAD_LIMIT_BYTES
        await client.send(request("/held", "Transfer-Encoding: chunked", method="POST", body=chunks))
        await client.read_response()

        echo.release.set()

        assert await client.is_closed()


class TestTime:
    @pytest.mark.parametrize("begun", [b"G", b"GET / HTTP/1.1\r\nx-slow: v"])
    async def test_for_a_head_is_limited(self, begun: bytes, impatient: Client) -> None:
        await impatient.send(begun)

        await assert_rejected(impatient, 408, "request_timeout")

    async def test_is_not_extended_by_further_bytes(self, impatient: Client) -> None:
        async def drip() -> None:
            await impatient.send(b"GET / HTTP/1.1\r\nx-slow: ")
            while True:
                await impatient.send(b"v")
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        try:
            await assert_rejected(impatient, 408, "request_timeout")
        finally:
            dripping.cancel()

    async def test_is_limited_for_the_next_request_too(self, impatient: Client) -> None:
        await impatient.send(request())
        await read_json(impatient)

        await impatient.send(b"GET /")

        await assert_rejected(impatient, 408, "request_timeout")

    async def test_does_not_include_the_time_of_a_pending_response(
        self, echo: Echo, impatient: Client
    ) -> None:
        # The second head stays incomplete while the first request is processed.
        await impatient.send(request("/held") + b"GET /next HTTP/1.1\r\n")
        # Wait until the head of another connection, which began later, has timed out.
        async with connect_to(impatient.writer.get_extra_info("peername")[1]) as other:
            await other.send(b"G")
            await other.read_response()

        echo.release.set()

        assert (await read_json(impatient))["path"] == "/held"

    async def test_for_a_body_is_not_limited_here(self, impatient: Client) -> None:
        await impatient.send(request("/", "Content-Length: 2", method="POST", body=b"b"))
        async with connect_to(impatient.writer.get_extra_info("peername")[1]) as other:
            await other.send(b"G")
            await other.read_response()

        await impatient.send(b"b")

        assert (await read_json(impatient))["size"] == 2

    @pytest.mark.parametrize(
        "sent",
        [
            pytest.param(b"", id="nothing"),
            pytest.param(b"\r\n", id="an empty line"),
            pytest.param(request() + b"\r\n", id="an empty line after a request"),
            pytest.param(
                request("/unread", "Content-Length: 9", method="POST"), id="no body after the response"
            ),
        ],
    )
    async def test_without_a_request_is_limited_by_keep_alive(self, sent: bytes, echo: Echo) -> None:
        async with serve_app(echo, keep_alive_seconds=1) as port, connect_to(port) as client:
            await client.send(sent)
            if len(sent) > 2:
                await read_json(client)
            if b"unread" in sent:
                await client.send(b"b")

            assert await client.is_closed()


class _QuickProtocol(BoundedHttpProtocol):
    first_byte_seconds = 0.2
    read_seconds = 0.2


class TestSilence:
    async def test_connection_without_a_byte_is_closed_early(self, echo: Echo) -> None:
        async with serve_app(echo, protocol=_QuickProtocol) as port, connect_to(port) as client:
            assert await client.is_closed()

    async def test_used_connection_may_wait_longer_for_the_next_request(self, echo: Echo) -> None:
        async with serve_app(echo, protocol=_QuickProtocol) as port, connect_to(port) as client:
            await client.send(request())
            await read_json(client)
            async with connect_to(port) as silent:
                assert await silent.is_closed()

            await client.send(request("/again"))

            assert (await read_json(client))["path"] == "/again"

    def test_default_is_ten_seconds(self) -> None:
        assert BoundedHttpProtocol.first_byte_seconds == 10


class TestUnreadResponse:
    async def test_connection_is_closed(self, echo: Echo) -> None:
        async with serve_app(echo, protocol=_QuickProtocol) as port, connect_to(port) as client:
            before = metric("byok_http_connections_closed_total", reason="unread")
            await client.send(request("/endless"))

            await until(
                lambda: resolved(metric("byok_http_connections_closed_total", reason="unread")),
                lambda closed: closed == before + 1,
            )

    async def test_connection_of_a_slow_but_steady_reader_stays_open(self, echo: Echo) -> None:
        async with serve_app(echo, protocol=_QuickProtocol) as port, connect_to(port) as client:
            await client.send(request("/endless"))
            loop = asyncio.get_running_loop()
            read_until, received = loop.time() + 4 * _QuickProtocol.read_seconds, 0

            while loop.time() < read_until:
                received += len(await client.reader.read(READ_MINIMUM_BYTES))
                await asyncio.sleep(0.001)

            assert received > 4 * READ_MINIMUM_BYTES
            assert not client.reader.at_eof()


class TestUnreadMemory:
    async def test_oldest_connection_is_closed_beyond_it(self, echo: Echo) -> None:
        class Protocol(BoundedHttpProtocol):
            unread_responses = UnreadResponses(UNREAD_BYTES)

        async with serve_app(echo, protocol=Protocol) as port, AsyncExitStack() as opened:
            before = metric("byok_http_connections_closed_total", reason="unread")
            for _ in range(10):
                client = await opened.enter_async_context(connect_to(port))
                await client.send(request("/endless"))

            await until(
                lambda: resolved(metric("byok_http_connections_closed_total", reason="unread")),
                lambda closed: closed > before,
            )
            assert Protocol.unread_responses.total_bytes <= UNREAD_BYTES
        await until(lambda: resolved(Protocol.unread_responses.total_bytes), lambda unread: unread == 0)


class TestConnectionLimit:
    @pytest.fixture
    async def port(self, echo: Echo) -> AsyncIterator[int]:
        class Limited(BoundedHttpProtocol):
            open_connections = OpenConnections(3, clock=time.monotonic)

        async with serve_app(echo, protocol=Limited) as port:
            yield port

    async def test_new_connection_displaces_the_one_that_waited_longest(self, port: int) -> None:
        async with connect_to(port) as used, connect_to(port) as silent, connect_to(port) as slow:
            await used.send(request())
            await read_json(used)
            await slow.send(b"GET /")

            async with connect_to(port) as new:
                await new.send(request("/new"))

                assert (await read_json(new))["path"] == "/new"
            assert await silent.is_closed()
            await used.send(request("/still-open"))
            assert (await read_json(used))["path"] == "/still-open"

    async def test_requests_in_progress_are_never_displaced(self, echo: Echo, port: int) -> None:
        async with connect_to(port) as one, connect_to(port) as two, connect_to(port) as three:
            for client in (one, two, three):
                await client.send(request("/held"))
            await until(lambda: resolved(echo.held), lambda held: held == 3)

            async with connect_to(port) as refused:
                assert await refused.is_closed()

            echo.release.set()
            assert [(await read_json(it))["path"] for it in (one, two, three)] == ["/held"] * 3


class TestParser:
    @pytest.mark.parametrize(
        "sent",
        [
            b"GET / HTTP/1.1\r\ncontent-length: abc\r\n\r\n",
            b"GET /\xff HTTP/1.1\r\n\r\n",
            b"GET / HTTP/3.0\r\n\r\n",
            b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        ],
    )
    async def test_rejects_malformed_requests_with_a_problem(self, client: Client, sent: bytes) -> None:
        await client.send(sent)

        await assert_rejected(client, 400, "malformed_request")

    async def test_rejects_an_unknown_method_with_405(self, client: Client) -> None:
        await client.send(b"FOO / HTTP/1.1\r\n\r\n")

        await assert_rejected(client, 405, "method_not_allowed")
