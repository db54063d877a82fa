"""A stream whose provider and client are slow passes without joining the line of long work."""

import asyncio

from app.core.time_slice import SLICE_SECONDS, line_of
from app.relay.client import Client
from app.relay.passing_on import pass_on
from app.relay.records import Message
from app.relay.usage_meter import SseMeter
from tests.support.network.scripted_servers import Reader, Writer, scripted_server
from tests.support.relay.provider_client import post, provider_client

CHUNKS = [b": %d\n\n" % number for number in range(5)]


async def test_waiting_for_a_slow_client_does_not_count() -> None:
    wanted = asyncio.Semaphore()
    received: list[bytes] = []

    async def script(_reader: Reader, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for chunk in CHUNKS:
            await wanted.acquire()
            writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        writer.write(b"0\r\n\r\n")

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send_slowly(message: Message) -> None:
        received.append(message["body"])
        await asyncio.sleep(2 * SLICE_SECONDS)
        wanted.release()

    async with scripted_server(script) as server, provider_client(server) as provider:
        response = await provider.open(post())
        client = Client({"type": "http"}, receive, send_slowly, unread_seconds=60)
        async with line_of(asyncio.get_running_loop()), asyncio.timeout(10):
            await pass_on(response, client, SseMeter())

    assert received == CHUNKS
