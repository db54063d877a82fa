"""How long a body may take to arrive, on a real socket: JSON a while, streams of usage events as long as they like."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from app.api.middleware import BodyLimits, RequestContext
from app.api.problems import add_problem_handlers
from tests.integration.routers.listening import Client, connected, listening, request

BODY_SECONDS = 0.3
JSON = "Content-Type: application/json"
EVENTS = "/v1/organizations/org_1/usage-events"


@dataclass(frozen=True)
class Bounded:
    """A server that waits that long for a body, and what its slow answers wait for."""

    port: int
    release: asyncio.Event

    async def let_time_pass(self) -> None:
        """Until a body that began after all those before it has had its time."""
        async with connected(self.port) as client:
            await client.send(request("/size", JSON, "Content-Length: 2", method="POST", body=b"{"))
            assert (await client.answer()).status == 408


@pytest.fixture
async def bounded() -> AsyncIterator[Bounded]:
    release = asyncio.Event()
    app = FastAPI()

    async def size(request: Request) -> int:
        return len(await request.body())

    async def slow(request: Request) -> StreamingResponse:
        received = await request.body()

        async def parts() -> AsyncIterator[bytes]:
            await release.wait()
            yield received

        return StreamingResponse(parts(), headers={"Content-Length": str(len(received))})

    app.add_api_route("/size", size, methods=["POST"])
    app.add_api_route("/slow", slow, methods=["POST"])
    app.add_api_route(EVENTS, size, methods=["POST"])
    add_problem_handlers(app)
    app.add_middleware(BodyLimits, body_seconds=BODY_SECONDS)
    app.add_middleware(RequestContext)
    async with listening(app) as port:
        yield Bounded(port, release)
    release.set()


@pytest.fixture
async def client(bounded: Bounded) -> AsyncIterator[Client]:
    async with connected(bounded.port) as client:
        yield client


@pytest.mark.parametrize("path", ["/size", EVENTS])
async def test_of_json_is_bounded(path: str, client: Client) -> None:
    await client.send(request(path, JSON, "Content-Length: 2", method="POST", body=b"{"))

    answer = await client.answer()

    assert (answer.status, json.loads(answer.body)["code"]) == (408, "request_timeout")
    assert answer.headers["connection"] == "close"
    assert await client.is_closed()


async def test_is_not_won_by_further_bytes(client: Client) -> None:
    async def drip() -> None:
        await client.send(request("/size", JSON, "Content-Length: 9999", method="POST"))
        while True:
            await client.send(b" ")
            await asyncio.sleep(0.02)

    dripping = asyncio.create_task(drip())
    try:
        assert (await client.answer()).status == 408
    finally:
        dripping.cancel()


async def test_is_over_when_the_body_is_there(bounded: Bounded, client: Client) -> None:
    await client.send(request("/slow", JSON, "Content-Length: 2", method="POST", body=b"{}"))

    await bounded.let_time_pass()
    bounded.release.set()

    assert (await client.answer()).body == b"{}"


async def test_of_a_stream_is_its_senders(bounded: Bounded, client: Client) -> None:
    head = ("Content-Type: application/x-ndjson", "Content-Length: 2")
    await client.send(request(EVENTS, *head, method="POST", body=b"{"))

    await bounded.let_time_pass()
    await client.send(b"}")

    assert (await client.answer()).body == b"2"
