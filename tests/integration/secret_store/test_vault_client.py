"""The Vault client with broken, slow and invalid responses: each is returned as a value."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from app.secret_store.vault.client import VaultServer
from app.secret_store.vault.responses import VaultReason, VaultResponse

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter
GOOD = b'HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n{"data":{"a":"b"}}'

# The start of a response, and the bytes that are then sent repeatedly, so that it never ends.
SLOW_RESPONSES = {
    "header": (b"HTTP/1.1 200 OK\r\nX-Drip: ", b"x"),
    "interim responses": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body": (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b" "),
    "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
}


@asynccontextmanager
async def scripted_server(
    script: Callable[[Reader, Writer, int], Awaitable[None]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """A server that runs the script for each connection, with the connection's number."""
    count = 0
    open_writers: list[Writer] = []

    async def serve(reader: Reader, writer: Writer) -> None:
        nonlocal count
        count += 1
        open_writers.append(writer)
        await script(reader, writer, count)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    yield f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    for writer in open_writers:
        writer.close()
    server.close()
    await server.wait_closed()


async def last_response(address: str, *, times: int = 1, read_seconds: float = 5) -> VaultResponse:
    """Send the same request `times` times and return the last response."""
    server = VaultServer(address, read_seconds=read_seconds)
    responses = [await send_read(server) for _ in range(times)]
    server.close()
    return responses[-1]


async def send_read(server: VaultServer) -> VaultResponse:
    client = server.client(token="t", namespace=None)
    return await server.send(client, lambda vault: vault.read("kv/config"))


async def read_request(reader: Reader) -> None:
    await reader.readuntil(b"\r\n\r\n")


class TestSend:
    async def test_retries_once_when_the_connection_breaks(self) -> None:
        async def script(reader: Reader, writer: Writer, number: int) -> None:
            await read_request(reader)
            if number > 1:
                writer.write(GOOD)
                await writer.drain()
            writer.close()

        async with scripted_server(script) as address:
            response = await last_response(address)

        assert response.data == {"a": "b"}

    async def test_retries_when_vault_has_closed_the_idle_connection(self) -> None:
        async def script(reader: Reader, writer: Writer, _number: int) -> None:
            await read_request(reader)
            writer.write(GOOD)
            await read_request(reader)
            writer.close()

        async with scripted_server(script) as address:
            # The second request of each connection gets no response.
            assert (await last_response(address, times=3)).is_success

    async def test_is_unreachable_when_the_retry_breaks_too(self) -> None:
        async def script(reader: Reader, writer: Writer, _number: int) -> None:
            await read_request(reader)
            writer.close()

        async with scripted_server(script) as address:
            assert (await last_response(address)).failure is VaultReason.UNREACHABLE

    async def test_is_unreachable_when_the_response_is_not_http(self) -> None:
        async def script(reader: Reader, writer: Writer, _number: int) -> None:
            await read_request(reader)
            writer.write(b"220 mail.example.com ESMTP\r\n\r\n")
            writer.close()

        async with scripted_server(script) as address:
            assert (await last_response(address)).failure is VaultReason.UNREACHABLE

    async def test_times_out_without_a_response(self) -> None:
        async def script(reader: Reader, _writer: Writer, _number: int) -> None:
            await read_request(reader)

        async with scripted_server(script) as address:
            assert (await last_response(address, read_seconds=0.05)).failure is VaultReason.TIMEOUT

    @pytest.mark.parametrize(("start", "chunk"), SLOW_RESPONSES.values(), ids=SLOW_RESPONSES)
    @pytest.mark.parametrize("has_tls", [False, True])
    async def test_times_out_when_bytes_arrive_slowly(
        self, tmp_path: Path, start: bytes, chunk: bytes, has_tls: bool
    ) -> None:
        is_repaired = asyncio.Event()

        async def script(reader: Reader, writer: Writer, _number: int) -> None:
            await read_request(reader)
            writer.write(GOOD if is_repaired.is_set() else start)
            while not is_repaired.is_set() and not writer.is_closing():
                writer.write(chunk)
                await asyncio.sleep(0.01)  # each wait for bytes is short, but the response is not

        authority = trustme.CA()
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(tls)
        async with scripted_server(script, tls if has_tls else None) as address, asyncio.timeout(20):
            server = VaultServer(address, ca_file=tmp_path / "ca.pem", workers=2, read_seconds=0.2)
            timed_out = await asyncio.gather(send_read(server), send_read(server))
            is_repaired.set()
            response = await send_read(server)
            server.close()

        assert [slow_response.failure for slow_response in timed_out] == [
            VaultReason.TIMEOUT,
            VaultReason.TIMEOUT,
        ]
        assert response.data == {"a": "b"}

    async def test_refuses_an_oversized_response(self) -> None:
        async def script(reader: Reader, writer: Writer, _number: int) -> None:
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + b" " * 3_000_000)

        async with scripted_server(script) as address:
            assert (await last_response(address)).failure is VaultReason.UNEXPECTED

    @pytest.mark.parametrize("address", ["http://127.0.0.1:1", "ftp://127.0.0.1"])
    async def test_is_unreachable_without_a_server(self, address: str) -> None:
        assert (await last_response(address)).failure is VaultReason.UNREACHABLE
