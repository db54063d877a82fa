"""The relay's HTTP client: what it sends, what it hands out, and how an exchange ends."""

import asyncio
import gc
import hashlib
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from app.egress.streaming.connections import keep_alive
from app.egress.streaming.connector import MAX_INFORMATIONAL
from app.relay.transport import (
    ProviderResponse,
    ProviderResponseRefused,
    ProviderTimeout,
    ProviderUnreachable,
    Timeouts,
    TransportError,
)
from tests.support.network.scripted_servers import (
    ADDRESS,
    HOST,
    URL,
    FixedResolver,
    Reader,
    Script,
    ScriptedServer,
    Writer,
    certificate,
    http_response,
    never_respond,
    respond_always,
    scripted_server,
)
from tests.support.polling import resolved, until
from tests.support.relay.provider_client import body_of, get, post, provider_client

OK = respond_always(http_response())
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
KEY = "sk-ant-api03-a-key-that-nothing-else-contains"
FIN_WAS_RECEIVED = 5  # Linux's number of the state FIN-WAIT-2


def hangs_after(data: bytes) -> Script:
    """Send the data, then nothing."""

    async def script(_reader: Reader, writer: Writer) -> None:
        writer.write(data)
        await writer.drain()
        await asyncio.Event().wait()

    return script


def breaks_after(data: bytes) -> Script:
    """Send the data and close the connection."""

    async def script(_reader: Reader, writer: Writer) -> None:
        writer.write(data)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        raise ConnectionError

    return script


class Uploads:
    """Reads bodies completely and remembers their hashes."""

    def __init__(self) -> None:
        self.hashes: list[str] = []

    async def __call__(self, reader: Reader, writer: Writer, *, length: int) -> None:
        self.hashes.append(hashlib.sha256(await reader.readexactly(length)).hexdigest())
        writer.write(http_response())


async def closed(server: ScriptedServer) -> None:
    await until(server.open_sockets, lambda count: count == 0)


def close_behind_the_event_loop(writer: Writer) -> None:
    """Close the connection, and return when the kernel of the peer knows, but no task has run since."""
    connection = writer.get_extra_info("socket")
    connection.shutdown(socket.SHUT_RDWR)
    give_up_at = time.monotonic() + 5
    while connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != FIN_WAS_RECEIVED:
        assert time.monotonic() < give_up_at


async def received_before(error: type[TransportError], response: ProviderResponse) -> bytes:
    """What is handed out before the response ends with this error."""
    received = b""
    try:
        while chunk := await response.read():
            received += chunk
    except error:
        return received
    pytest.fail("The response ended without an error.")


class TestRequest:
    async def test_has_exactly_the_given_headers_and_those_of_http(self) -> None:
        headers = [("x-api-key", KEY), ("anthropic-beta", "a"), ("anthropic-beta", "b"), ("accept", "x/y")]
        async with scripted_server(OK) as server, provider_client(server) as client:
            await body_of(await client.open(post(headers=headers, body=b'{"a":1}')))

        lines = server.requests[0].rstrip().split("\r\n")
        assert lines == [
            "POST /v1/messages HTTP/1.1",
            "Host: gw.example.com",
            f"x-api-key: {KEY}",
            "anthropic-beta: a",
            "anthropic-beta: b",
            "accept: x/y",
            "Content-Length: 7",
        ]

    @pytest.mark.parametrize("length", [0, 1, 65_535, 65_536, 65_537, 32 * 1024 * 1024])
    async def test_body_arrives_unchanged(self, length: int) -> None:
        body, uploads = hashlib.sha256(b"seed").digest() * (length // 32 + 1), Uploads()
        body = body[:length]

        async def script(reader: Reader, writer: Writer) -> None:
            await uploads(reader, writer, length=length)

        async with scripted_server(script) as server, provider_client(server) as client:
            assert await body_of(await client.open(post(body=body))) == b"{}"

        assert uploads.hashes == [hashlib.sha256(body).hexdigest()]

    async def test_get_has_no_body_and_no_length(self) -> None:
        async with scripted_server(OK) as server, provider_client(server) as client:
            await body_of(await client.open(get()))

        assert "content-length" not in server.requests[0].lower()

    @pytest.mark.parametrize("request_of", [post, get])
    async def test_reused_connection_that_dies_is_not_retried(self, request_of: Callable[[], Any]) -> None:
        served = 0

        async def script(_reader: Reader, writer: Writer) -> None:
            nonlocal served
            served += 1
            if served == 2:
                writer.transport.abort()
                raise ConnectionError
            writer.write(http_response())

        async with scripted_server(script) as server, provider_client(server) as client:
            await body_of(await client.open(get()))
            with pytest.raises(ProviderUnreachable) as caught:
                await client.open(request_of())

        assert (served, len(server.requests), server.connections) == (2, 2, 1)
        assert caught.value.was_sent

    async def test_connection_that_the_provider_closed_meanwhile_is_not_reused(self) -> None:
        served: list[Writer] = []

        async def script(_reader: Reader, writer: Writer) -> None:
            served.append(writer)
            writer.write(http_response())

        async with scripted_server(script) as server, provider_client(server) as client:
            await body_of(await client.open(post()))
            close_behind_the_event_loop(served[0])

            assert await body_of(await client.open(post())) == b"{}"

        assert server.connections == 2

    @pytest.mark.parametrize(
        ("is_custom", "idle_seconds", "connections"),
        [(True, 2, 1), (True, 4.5, 2), (False, 10, 1), (False, 15.5, 2)],
    )
    async def test_idle_connection_is_reused_for_a_time(
        self, monkeypatch: pytest.MonkeyPatch, is_custom: bool, idle_seconds: float, connections: int
    ) -> None:
        async with (
            scripted_server(OK, certificate(HOST, "127.0.0.1")) as server,
            provider_client(server, operator_base_url=f"https://127.0.0.1:{server.port}") as client,
        ):
            url = URL if is_custom else f"https://127.0.0.1:{server.port}/v1/messages"
            await body_of(await client.open(post(url, is_custom=is_custom)))
            released_at = time.monotonic()
            monkeypatch.setattr("aiohttp.connector.monotonic", lambda: released_at + idle_seconds)
            await body_of(await client.open(post(url, is_custom=is_custom)))

        assert server.connections == connections

    async def test_neither_key_nor_body_is_kept_while_waiting_for_the_head(self) -> None:
        body = b'{"prompt": "' + b"p" * 100_000 + b'"}'

        async def script(reader: Reader, _writer: Writer) -> None:
            await reader.readexactly(len(body))
            received.set()
            await asyncio.Event().wait()

        received = asyncio.Event()
        async with scripted_server(script) as server, provider_client(server) as client:
            waiting = asyncio.create_task(
                client.open(post(headers=[("x-api-key", KEY + "1")], body=bytes(body)))
            )
            await received.wait()

            # The provider may have the last byte before the task that sent it goes on.
            await until(_holders_of_second_key, lambda held: held == [])
            assert not waiting.done()
            waiting.cancel()


class TestResponse:
    @pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
    async def test_body_arrives_unchanged_over_any_chunking(self, size: int) -> None:
        body = "event: x\r\ndata: é…🦜\n\n: comment\n\n".encode() * 3
        pieces = [body[start : start + size] for start in range(0, len(body), size)]
        encoded = b"".join(b"%x;extension=1\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        script = respond_always(CHUNKED + encoded + b"0\r\nTrailer: value\r\n\r\n")
        async with scripted_server(script) as server, provider_client(server) as client:
            for _ in range(2):
                assert await body_of(await client.open(post())) == body

        assert server.connections == 1

    async def test_what_was_sent_is_handed_out_at_once(self) -> None:
        sent = [b"first", b"second"]
        release = asyncio.Event()

        async def script(_reader: Reader, writer: Writer) -> None:
            writer.write(CHUNKED)
            for piece in sent:
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                await release.wait()
                release.clear()
            writer.write(b"0\r\n\r\n")

        async with scripted_server(script) as server, provider_client(server) as client:
            response = await client.open(post())
            for piece in sent:
                assert await response.read() == piece
                release.set()
            assert await response.read() == b""

    @pytest.mark.parametrize("chunks", range(2047, 2052))
    async def test_what_follows_very_many_chunks_is_handed_out(self, chunks: int) -> None:
        """Beyond 2,048 chunks that nothing has read, aiohttp pauses."""
        release = asyncio.Event()

        async def script(_reader: Reader, writer: Writer) -> None:
            writer.write(CHUNKED + b"1\r\nx\r\n" * chunks)
            await release.wait()
            writer.write(b"5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n")

        async with scripted_server(script) as server, provider_client(server) as client:
            response = await client.open(post())
            first = await response.read()
            release.set()

            assert first + await body_of(response) == b"x" * chunks + b"helloworld"

    @pytest.mark.parametrize(
        "status", ["200 OK", "400 Bad", "402 Pay", "404 Not", "413 Big", "429 Slow", "529 Over"]
    )
    async def test_status_and_error_body_pass(self, status: str) -> None:
        body = b'{"type":"error"}'
        async with (
            scripted_server(
                respond_always(http_response(body, "Request-Id: req_1", status=status))
            ) as server,
            provider_client(server) as client,
        ):
            response = await client.open(post())

            assert (response.status, await body_of(response)) == (int(status[:3]), body)
            assert (b"Request-Id", b"req_1") in response.headers

    @pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "zstd"])
    async def test_encoded_body_is_refused(self, encoding: str) -> None:
        script = respond_always(http_response(b"\x1f\x8b", f"Content-Encoding: {encoding}"))
        async with scripted_server(script) as server, provider_client(server) as client:
            with pytest.raises(ProviderResponseRefused):
                await client.open(post())
        assert len(server.requests) == 1

    async def test_reading_pauses_when_nothing_takes_the_body(self) -> None:
        written = 0

        async def script(_reader: Reader, writer: Writer) -> None:
            nonlocal written
            writer.write(CHUNKED)
            while True:
                writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                await writer.drain()
                written += 65536

        async with scripted_server(script) as server, provider_client(server) as client:
            response = await client.open(post())
            amounts = [-1]

            async def is_stuck() -> bool:
                await asyncio.sleep(0.05)
                amounts.append(written)
                return amounts[-1] == amounts[-2]

            await until(is_stuck, bool)
            held = len(await response.read())
            response.close()
            await closed(server)

        # The kernel's buffers on both sides hold some megabytes; the process holds little.
        assert written < 32 * 1024 * 1024
        assert held <= 256 * 1024


class TestHeads:
    @pytest.mark.parametrize(
        "data",
        [
            b"not http at all\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: " + b"x" * 40_000 + b"\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"X-Header: value\r\n" * 3_000 + b"\r\n",
            b"HTTP/1.1 103 Early Hints\r\n\r\n" * (MAX_INFORMATIONAL + 1) + http_response(),
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        ],
        ids=["not http", "long header", "many headers", "many informational", "upgrade"],
    )
    async def test_unusable_head_is_refused(self, data: bytes) -> None:
        async with scripted_server(hangs_after(data)) as server, provider_client(server) as client:
            with pytest.raises(ProviderResponseRefused) as caught:
                await client.open(post())
            await closed(server)

        assert caught.value.was_sent

    async def test_head_without_an_end_is_refused_at_its_bound(self) -> None:
        async def script(_reader: Reader, writer: Writer) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\n")
            while True:
                writer.write(b"X: y\r\n")
                await writer.drain()

        async with scripted_server(script) as server, provider_client(server) as client:
            with pytest.raises(ProviderResponseRefused):
                await client.open(post())
            await closed(server)

    async def test_informational_responses_are_skipped(self) -> None:
        early = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * MAX_INFORMATIONAL
        async with (
            scripted_server(respond_always(early + http_response(b"body"))) as server,
            provider_client(server) as client,
        ):
            for _ in range(2):
                assert await body_of(await client.open(post())) == b"body"

        assert server.connections == 1


class TestEnds:
    async def test_break_before_the_head(self) -> None:
        async with scripted_server(breaks_after(b"")) as server, provider_client(server) as client:
            request = post()
            with pytest.raises(ProviderUnreachable) as caught:
                await client.open(request)

        assert (request.was_sent, caught.value.was_sent) == (True, True)

    @pytest.mark.parametrize(
        "head", [CHUNKED + b"5\r\nfirst\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfirst"]
    )
    async def test_break_within_the_body_hands_out_what_arrived(self, head: bytes) -> None:
        async with scripted_server(breaks_after(head)) as server, provider_client(server) as client:
            for _ in range(20):
                response = await client.open(post())
                assert await received_before(ProviderUnreachable, response) == b"first"
                with pytest.raises(ProviderUnreachable):
                    await response.read()
            assert (client.responses_open, client.connections_idle) == (0, 0)

    async def test_idle_bound_counts_from_the_last_byte(self) -> None:
        timeouts = Timeouts(connect_seconds=5, upload_seconds=5, idle_seconds=0.3)

        async def script(_reader: Reader, writer: Writer) -> None:
            writer.write(CHUNKED)
            for _ in range(6):
                await asyncio.sleep(0.1)
                writer.write(b"1\r\nx\r\n")
                await writer.drain()
            await asyncio.Event().wait()

        async with scripted_server(script) as server, provider_client(server, timeouts=timeouts) as client:
            received = await received_before(ProviderTimeout, await client.open(post()))
            await closed(server)

        assert received == b"xxxxxx"

    async def test_reads_do_not_replace_the_timer_of_the_idle_bound(self) -> None:
        timers, reads = set[int](), 5

        async def script(_reader: Reader, writer: Writer) -> None:
            writer.write(CHUNKED)
            await writer.drain()
            for _ in range(reads):
                await asyncio.sleep(0.01)
                writer.write(b"1\r\nx\r\n")
                await writer.drain()
            await asyncio.Event().wait()

        async with scripted_server(script) as server, provider_client(server) as client:
            response = await client.open(post())
            connection = response._response.connection
            assert connection is not None
            assert connection.protocol is not None
            first = connection.protocol._read_timeout_handle
            received = b""
            while len(received) < reads:
                received += await response.read()
                timers.add(id(connection.protocol._read_timeout_handle))
            response.close()

        assert timers == {id(first)}

    async def test_idle_bound_applies_to_the_head(self) -> None:
        timeouts = Timeouts(connect_seconds=5, upload_seconds=5, idle_seconds=0.1)
        async with (
            scripted_server(never_respond) as server,
            provider_client(server, timeouts=timeouts) as client,
        ):
            with pytest.raises(ProviderTimeout) as caught:
                await client.open(post())
            await closed(server)

        assert caught.value.was_sent

    async def test_peer_that_does_not_take_the_body_ends_the_request(self) -> None:
        timeouts = Timeouts(connect_seconds=0.1, upload_seconds=0.1, idle_seconds=0.1)
        async with (
            scripted_server(never_respond) as server,
            provider_client(server, timeouts=timeouts) as client,
        ):
            with pytest.raises(ProviderTimeout):
                await client.open(post(body=b"x" * 32 * 1024 * 1024))

            # The server reads nothing, so only the client's side shows that the connection is closed.
            await until(lambda: resolved(client.connections_idle), lambda count: count == 0)

    async def test_cancellation_while_waiting_closes_the_connection(self) -> None:
        async with scripted_server(never_respond) as server, provider_client(server) as client:
            request = post()
            waiting = asyncio.create_task(client.open(request))
            await until(lambda: resolved(server.requests), bool)
            waiting.cancel()
            await closed(server)

            assert request.was_sent
            assert (client.responses_open, client.connections_idle) == (0, 0)

    async def test_cancellation_during_the_lookup_sends_nothing(self) -> None:
        resolver = FixedResolver(gw_example_com=[[ADDRESS]])
        resolver.blocked[HOST] = asyncio.Event()
        async with scripted_server(OK) as server, provider_client(server, resolver=resolver) as client:
            request = post()
            waiting = asyncio.create_task(client.open(request))
            await until(lambda: resolved(resolver.queries), bool)
            waiting.cancel()
            resolver.blocked[HOST].set()
            await asyncio.gather(waiting, return_exceptions=True)

            assert (request.was_sent, server.requests) == (False, [])

    @pytest.mark.parametrize("is_reading", [False, True])
    async def test_close_within_the_body_closes_the_connection_at_once(self, is_reading: bool) -> None:
        async with (
            scripted_server(hangs_after(CHUNKED + b"5\r\nfirst\r\n")) as server,
            provider_client(server) as client,
        ):
            response = await client.open(post())
            assert await response.read() == b"first"
            reading = asyncio.create_task(response.read()) if is_reading else None
            await asyncio.sleep(0)
            started = asyncio.get_running_loop().time()
            response.close()
            await closed(server)

            assert asyncio.get_running_loop().time() - started < 5
            assert (client.responses_open, client.connections_idle) == (0, 0)
            if reading is not None:
                with pytest.raises(ProviderUnreachable):
                    await reading

    async def test_complete_body_returns_the_connection_to_the_pool(self) -> None:
        async with scripted_server(OK) as server, provider_client(server) as client:
            response = await client.open(post())
            assert client.responses_open == 1
            await body_of(response)
            response.close()

            assert (client.responses_open, client.connections_idle) == (0, 1)
            await body_of(await client.open(post()))

        assert server.connections == 1

    async def test_unread_response_can_be_closed_after_the_provider_left(self) -> None:
        async with (
            scripted_server(breaks_after(CHUNKED + b"5\r\nfirst\r\n")) as server,
            provider_client(server) as client,
        ):
            response: ProviderResponse = await client.open(post())
            await closed(server)
            response.close()

            assert client.responses_open == 0


class TestSockets:
    def test_kernel_probes_silent_connections(self) -> None:
        with socket.socket() as connection:
            keep_alive(connection)

            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert [
                connection.getsockopt(socket.IPPROTO_TCP, option)
                for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            ] == [60, 15, 4]

    async def test_connections_of_the_client_are_probed(self) -> None:
        async with scripted_server(never_respond) as server, provider_client(server) as client:
            waiting = asyncio.create_task(client.open(post()))
            await until(lambda: resolved(server.requests), bool)
            transports = [
                found
                for found in gc.get_objects()
                if isinstance(found, asyncio.BaseTransport)
                and found.get_extra_info("peername") == ("127.0.0.1", server.port)
            ]
            options = {
                transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                for transport in transports
            }
            waiting.cancel()

        assert options == {1}


async def _holders_of_second_key() -> list[object]:
    gc.collect()
    return [
        found
        for found in gc.get_objects()
        for value in _values(found)
        if isinstance(value, str) and value == KEY + "1"
    ]


def _values(found: object) -> list[object]:
    """The direct contents of a container or of a frame."""
    try:
        return gc.get_referents(found)
    except Exception:  # noqa: BLE001  # an object that is being torn down
        return []
