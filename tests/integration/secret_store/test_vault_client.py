"""What comes over the wire from Vault, when it is not what Vault sends: each ends as a value."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from app.secret_store.vault.client import VaultServer
from app.secret_store.vault.responses import Answer, VaultReason

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter
GOOD = b'HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n{"data":{"a":"b"}}'

# What comes first, and what comes again and again so that the answer has no end.
DRIPS = {
    "header": (b"HTTP/1.1 200 OK\r\nX-Drip: ", b"x"),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body": (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b" "),
    "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
}


@asynccontextmanager
async def scripted(
    play: Callable[[Reader, Writer, int], Awaitable[None]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """A server that answers each connection as the script says, by its number."""
    count = 0
    open_writers: list[Writer] = []

    async def serve(reader: Reader, writer: Writer) -> None:
        nonlocal count
        count += 1
        open_writers.append(writer)
        await play(reader, writer, count)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    yield f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    for writer in open_writers:
        writer.close()
    server.close()
    await server.wait_closed()


async def ask(address: str, *, times: int = 1, read_seconds: float = 5) -> Answer:
    """The last answer of so many."""
    server = VaultServer(address, read_seconds=read_seconds)
    answers = [await read(server) for _ in range(times)]
    server.close()
    return answers[-1]


async def read(server: VaultServer) -> Answer:
    client = server.client(token="t", namespace=None)
    return await server.ask(client, lambda vault: vault.read("kv/config"))


async def heard(reader: Reader) -> None:
    await reader.readuntil(b"\r\n\r\n")


class TestAsk:
    async def test_sends_again_once_when_the_connection_is_torn(self) -> None:
        async def play(reader: Reader, writer: Writer, number: int) -> None:
            await heard(reader)
            if number > 1:
                writer.write(GOOD)
                await writer.drain()
            writer.close()

        async with scripted(play) as address:
            answer = await ask(address)

        assert answer.data == {"a": "b"}

    async def test_sends_again_what_went_to_a_connection_closed_meanwhile(self) -> None:
        async def play(reader: Reader, writer: Writer, _number: int) -> None:
            await heard(reader)
            writer.write(GOOD)
            await heard(reader)
            writer.close()

        async with scripted(play) as address:
            # The second question of each connection gets no answer.
            assert (await ask(address, times=3)).is_success

    async def test_gives_up_when_it_is_torn_again(self) -> None:
        async def play(reader: Reader, writer: Writer, _number: int) -> None:
            await heard(reader)
            writer.close()

        async with scripted(play) as address:
            assert (await ask(address)).failure is VaultReason.UNREACHABLE

    async def test_gives_up_on_what_is_no_http(self) -> None:
        async def play(reader: Reader, writer: Writer, _number: int) -> None:
            await heard(reader)
            writer.write(b"220 mail.example.com ESMTP\r\n\r\n")
            writer.close()

        async with scripted(play) as address:
            assert (await ask(address)).failure is VaultReason.UNREACHABLE

    async def test_does_not_wait_for_ever(self) -> None:
        async def play(reader: Reader, _writer: Writer, _number: int) -> None:
            await heard(reader)

        async with scripted(play) as address:
            assert (await ask(address, read_seconds=0.05)).failure is VaultReason.TIMEOUT

    @pytest.mark.parametrize(("start", "drop"), DRIPS.values(), ids=DRIPS)
    @pytest.mark.parametrize("has_tls", [False, True])
    async def test_waits_no_longer_where_bytes_drip_in(
        self, tmp_path: Path, start: bytes, drop: bytes, has_tls: bool
    ) -> None:
        is_well = asyncio.Event()

        async def play(reader: Reader, writer: Writer, _number: int) -> None:
            await heard(reader)
            writer.write(GOOD if is_well.is_set() else start)
            while not is_well.is_set() and not writer.is_closing():
                writer.write(drop)
                await asyncio.sleep(0.01)  # each wait is short, the whole is not

        authority = trustme.CA()
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(tls)
        async with scripted(play, tls if has_tls else None) as address, asyncio.timeout(20):
            server = VaultServer(address, ca_file=tmp_path / "ca.pem", workers=2, read_seconds=0.2)
            overdue = await asyncio.gather(read(server), read(server))
            is_well.set()
            answer = await read(server)
            server.close()

        assert [it.failure for it in overdue] == [VaultReason.TIMEOUT, VaultReason.TIMEOUT]
        assert answer.data == {"a": "b"}

    async def test_reads_no_more_than_vault_would_say(self) -> None:
        async def play(reader: Reader, writer: Writer, _number: int) -> None:
            await heard(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + b" " * 3_000_000)

        async with scripted(play) as address:
            assert (await ask(address)).failure is VaultReason.UNEXPECTED

    @pytest.mark.parametrize("address", ["http://127.0.0.1:1", "ftp://127.0.0.1"])
    async def test_says_unreachable_where_nothing_is(self, address: str) -> None:
        assert (await ask(address)).failure is VaultReason.UNREACHABLE
