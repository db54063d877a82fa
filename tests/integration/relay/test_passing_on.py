"""Bodies pass without holding up other tasks: neither one fast provider nor many streams together."""

import asyncio
import time

from app.core.event_loop import BUDGET_SECONDS, IterationBudget
from app.relay.client import Client
from app.relay.passing_on import pass_on
from app.relay.records import Message
from app.relay.transport import Timeouts
from app.relay.usage_meter import SseMeter
from tests.support.network.scripted_servers import Reader, Writer, scripted_server
from tests.support.polling import resolved, until
from tests.support.relay.provider_client import post, provider_client

EVENT = b'event: content_block_delta\ndata: {"delta": {"text": "x"}}\n\n'
EVENTS = 100_000


async def _receive() -> Message:
    return {"type": "http.request"}


def _use(seconds: float) -> None:
    ends_at = time.perf_counter() + seconds
    while time.perf_counter() < ends_at:
        pass


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


class _SlowMeter(SseMeter):
    """Takes at least a quarter of the budget for each piece, on any machine."""

    def feed(self, chunk: bytes) -> None:
        super().feed(chunk)
        _use(BUDGET_SECONDS / 4)


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
            asyncio.create_task(pass_on(response, client, _SlowMeter(), budget))
            for response, client in zip(responses, clients, strict=True)
        ]
        ready.set()
        await asyncio.gather(*passing)
        counting.cancel()

    # Four pieces have time; an iteration may have the time twice.
    assert max(passed_in.count(iteration) for iteration in set(passed_in)) <= 8


async def test_what_an_interrupted_call_received_is_metered_and_not_sent() -> None:
    sent, budget, meter = bytearray(), IterationBudget(), SseMeter()

    async def script(_reader: Reader, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(EVENT), EVENT))

    async def send(message: Message) -> None:
        sent.extend(message["body"])

    async def use_up_the_iteration() -> None:
        await budget.wait()
        _use(BUDGET_SECONDS)

    async with scripted_server(script) as server, provider_client(server) as provider:
        response = await provider.open(post())
        client = Client({"type": "http"}, _receive, send, unread_seconds=60)
        await until(lambda: resolved(response._response.content.total_bytes), lambda size: size == len(EVENT))
        using = asyncio.create_task(use_up_the_iteration())
        passing = asyncio.create_task(pass_on(response, client, meter, budget))
        asyncio.get_running_loop().call_soon(passing.cancel)  # in the same iteration
        await asyncio.gather(using, passing, return_exceptions=True)

    assert (meter.result().delta_bytes, bytes(sent), client.last_bytes) == (1, b"", b"")
