"""Bodies pass without holding up other tasks: neither one fast provider nor many streams together."""

import asyncio

from app.core.event_loop import IterationBudget
from app.relay.client import Client
from app.relay.passing_on import pass_on
from app.relay.records import Message
from app.relay.transport import Timeouts
from app.relay.usage_meter import SseMeter
from tests.support.network.scripted_servers import Reader, Writer, scripted_server
from tests.support.relay.provider_client import post, provider_client

EVENT = b'event: content_block_delta\ndata: {"delta": {"text": "x"}}\n\n'
EVENTS = 100_000


async def _receive() -> Message:
    return {"type": "http.request"}


async def test_a_fast_provider_lets_other_tasks_run() -> None:
    """The client is faster still, so `write` never waits."""
    body, received, other_ran, longest = EVENT * EVENTS, bytearray(), asyncio.Event(), 0
    since_other = 0

    async def script(_reader: Reader, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async def send(message: Message) -> None:
        nonlocal since_other, longest
        received.extend(message["body"])
        since_other += len(message["body"])
        longest = max(longest, since_other)

    async def other() -> None:
        nonlocal since_other
        while True:
            since_other = 0
            other_ran.set()
            await asyncio.sleep(0)

    meter = SseMeter()
    async with scripted_server(script) as server, provider_client(server) as provider:
        response = await provider.open(post())
        client = Client({"type": "http"}, _receive, send, unread_seconds=60)
        running = asyncio.create_task(other())
        await pass_on(response, client, meter, IterationBudget())
        running.cancel()

    assert received == body
    assert meter.result().delta_bytes == EVENTS
    assert longest < len(body) / 10


async def test_many_streams_that_are_ready_together_pass_in_several_iterations() -> None:
    streams, ready, iterations, passed_in = 30, asyncio.Event(), 0, list[int]()

    async def script(_reader: Reader, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n")
        await ready.wait()
        writer.write((EVENT * 4000)[:200_000])

    async def send(_message: Message) -> None:
        passed_in.append(iterations)

    async def count_iterations() -> None:
        nonlocal iterations
        while True:
            iterations += 1
            await asyncio.sleep(0)

    budget = IterationBudget()
    async with scripted_server(script) as server, provider_client(server, timeouts=Timeouts()) as provider:
        responses = [await provider.open(post()) for _ in range(streams)]
        clients = [Client({"type": "http"}, _receive, send, unread_seconds=60) for _ in responses]
        counting = asyncio.create_task(count_iterations())
        passing = [
            asyncio.create_task(pass_on(response, client, SseMeter(), budget))
            for response, client in zip(responses, clients, strict=True)
        ]
        ready.set()
        await asyncio.gather(*passing)
        counting.cancel()

    assert max(passed_in.count(iteration) for iteration in set(passed_in)) < streams
