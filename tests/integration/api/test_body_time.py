"""The limits of time and memory for bodies, on a real socket. Streams of usage events have none."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import pairwise

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from app.api.body_limits import BodyLimits
from app.api.middleware import RequestContext
from app.api.problems import add_problem_handlers
from tests.support.network.http_server import Client, connect_to, request, serve_app

BODY_SECONDS = 0.3
TOTAL_BYTES, ORGANIZATION_BYTES = 1500, 1000
JSON = "Content-Type: application/json"
EVENTS = "/v1/organizations/org_1/usage-events"


@dataclass(frozen=True)
class LimitedServer:
    """A server that waits `BODY_SECONDS` for a body. Its slow responses wait for `release`."""

    port: int
    release: asyncio.Event

    async def wait_for_body_timeout(self) -> None:
        """Wait until a body that begins now has timed out, and therefore all earlier ones too."""
        async with connect_to(self.port) as client:
            await client.send(request("/size", JSON, "Content-Length: 2", method="POST", body=b"{"))
            assert (await client.read_response()).status == 408


@pytest.fixture
async def server() -> AsyncIterator[LimitedServer]:
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
    app.add_api_route("/v1/organizations/{organization_id}/slow", slow, methods=["POST"])
    app.add_middleware(
        BodyLimits,
        body_seconds=BODY_SECONDS,
        bodies_bytes=TOTAL_BYTES,
        bodies_bytes_per_organization=ORGANIZATION_BYTES,
    )
    app.add_middleware(RequestContext)
    async with serve_app(app) as port:
        yield LimitedServer(port, release)
    release.set()


@pytest.fixture
async def client(server: LimitedServer) -> AsyncIterator[Client]:
    async with connect_to(server.port) as client:
        yield client


@pytest.mark.parametrize("path", ["/size", EVENTS])
async def test_json_body_that_does_not_arrive_is_408(path: str, client: Client) -> None:
    await client.send(request(path, JSON, "Content-Length: 2", method="POST", body=b"{"))

    response = await client.read_response()

    assert (response.status, json.loads(response.body)["code"]) == (408, "request_timeout")
    assert response.headers["connection"] == "close"
    assert await client.is_closed()


async def test_further_bytes_do_not_extend_the_limit(client: Client) -> None:
    async def drip() -> None:
        await client.send(request("/size", JSON, "Content-Length: 9999", method="POST"))
        while True:
            await client.send(b" ")
            await asyncio.sleep(0.02)

    dripping = asyncio.create_task(drip())
    try:
        assert (await client.read_response()).status == 408
    finally:
        dripping.cancel()


async def test_limit_ends_when_the_body_is_complete(server: LimitedServer, client: Client) -> None:
    await client.send(request("/slow", JSON, "Content-Length: 2", method="POST", body=b"{}"))

    await server.wait_for_body_timeout()
    server.release.set()

    assert (await client.read_response()).body == b"{}"


async def test_stream_has_no_limit(server: LimitedServer, client: Client) -> None:
    head = ("Content-Type: application/x-ndjson", "Content-Length: 2")
    await client.send(request(EVENTS, *head, method="POST", body=b"{"))

    await server.wait_for_body_timeout()
    await client.send(b"}")

    assert (await client.read_response()).body == b"2"


class TestMemory:
    """Of bodies whose requests have no complete response yet."""

    async def test_is_shared_by_organizations(self, server: LimitedServer) -> None:
        async with AsyncExitStack() as opened:
            greedy = [await _hold(server, opened, "org_greedy", 500) for _ in range(2)]

            rejected = await _hold(server, opened, "org_greedy", 500)
            response = await rejected.read_response()
            other = await _hold(server, opened, "org_other", 500)
            beyond_the_total = await (await _hold(server, opened, "org_third", 500)).read_response()

            assert (response.status, json.loads(response.body)["code"]) == (429, "concurrency_limited")
            assert response.headers["retry-after"] == "2"
            assert beyond_the_total.status == 429
            server.release.set()
            assert [len((await it.read_response()).body) for it in (*greedy, other)] == [500] * 3

    async def test_is_free_after_the_response(self, server: LimitedServer) -> None:
        server.release.set()
        async with AsyncExitStack() as opened:
            for _ in range(5):
                client = await _hold(server, opened, "org_1", ORGANIZATION_BYTES)
                assert (await client.read_response()).status == 200

    async def test_is_free_after_a_body_that_does_not_arrive(self, server: LimitedServer) -> None:
        async with AsyncExitStack() as opened:
            for _ in range(2):
                await _hold(server, opened, "org_1", 500, is_complete=False)
            await server.wait_for_body_timeout()
            server.release.set()

            client = await _hold(server, opened, "org_1", ORGANIZATION_BYTES)
            assert (await client.read_response()).status == 200


async def _hold(
    server: LimitedServer, opened: AsyncExitStack, organization: str, size: int, *, is_complete: bool = True
) -> Client:
    """Send a request with a body to an endpoint that responds when it is released."""
    client = await opened.enter_async_context(connect_to(server.port))
    length = f"Content-Length: {size if is_complete else size + 1}"
    path = f"/v1/organizations/{organization}/slow"
    await client.send(request(path, JSON, length, method="POST", body=b" " * size))
    await asyncio.sleep(0.01)
    return client


class TestPace:
    async def test_a_large_body_lets_other_requests_go_on(self) -> None:
        parts = [b"x" * 256 * 1024] * 16
        iterations: list[int] = []

        async def receive() -> Message:
            iterations.append(counted[0])
            return {"type": "http.request", "body": parts.pop(), "more_body": bool(parts)}

        async def read(_: Scope, receive: Receive, send: Send) -> None:
            more = True
            while more:
                more = (await receive())["more_body"]
                # No part waits here, where nothing counts its memory.
                assert counted[0] == iterations[-1]
            await send({"type": "http.response.start", "status": 204, "headers": []})

        async def ignore(_: Message) -> None:
            pass

        async def count() -> None:
            while True:
                counted[0] += 1
                await asyncio.sleep(0)

        counted = [0]
        other = asyncio.create_task(count())
        scope = {"type": "http", "method": "POST", "path": EVENTS, "headers": []}
        await RequestContext(read)(scope, receive, ignore)
        other.cancel()

        assert len(iterations) == 16
        assert all(before < after for before, after in pairwise(iterations))
