"""A server on a real socket with the service's HTTP protocol, a small application for it, and a raw client."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.http_limits import BoundedHttpProtocol

TIMEOUT_SECONDS = 20
KEEP_ALIVE_SECONDS = 60  # longer than any test waits, so that an earlier close has the cause that is tested


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the test run."""
        yield


@dataclass
class Echo:
    """Responds with the path, the header names as they are after the body was read, and the size of the body.

    A request to `/held` gets its response when `release` is set; the body of a request to `/unread` is not read; the
    response to `/endless` is larger than any buffer.
    """

    release: asyncio.Event = field(default_factory=asyncio.Event)
    held: int = 0  # how many requests to `/held` have arrived

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = 0
        if scope["path"] == "/held":
            self.held += 1
            await self.release.wait()
        more = scope["path"] != "/unread"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        if scope["path"] == "/endless":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(10_000):  # after a disconnect, `send` returns at once
                await send({"type": "http.response.body", "body": b"b" * 65536, "more_body": True})
                await asyncio.sleep(0)
            return
        names = [name.decode() for name, _ in scope["headers"]]
        body = json.dumps({"path": scope["path"], "size": size, "headers": names}).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@dataclass(frozen=True)
class RawResponse:
    """A response as it was received."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Client:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, *parts: bytes) -> None:
        """Send as much as the server accepts: it may close the connection meanwhile."""
        with suppress(ConnectionError):
            for part in parts:
                self.writer.write(part)
                await self.writer.drain()

    async def read_response(self) -> RawResponse:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {
                name.lower(): value.strip()
                for name, _, value in (line.partition(":") for line in head[1:] if line)
            }
            body = await self.reader.readexactly(int(headers["content-length"]))
        return RawResponse(int(head[0].split(" ")[1]), headers, body)

    async def is_closed(self) -> bool:
        """Whether the server closes the connection without sending more data."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True


@asynccontextmanager
async def serve_app(
    app: ASGIApp,
    *,
    protocol: type[BoundedHttpProtocol] = BoundedHttpProtocol,
    keep_alive_seconds: int = KEEP_ALIVE_SECONDS,
) -> AsyncIterator[int]:
    """Serve the application on loopback. Yields the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        log_config=None,
        lifespan="off",
        http=protocol,
        ws="none",
        timeout_keep_alive=keep_alive_seconds,
        timeout_graceful_shutdown=1,  # for a request that is still held when a test fails
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await serving


@asynccontextmanager
async def connect_to(port: int) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def request(path: str = "/", *fields: str, method: str = "GET", body: bytes = b"") -> bytes:
    lines: Iterable[str] = (f"{method} {path} HTTP/1.1", "Host: byok.test", *fields, "", "")
    return "\r\n".join(lines).encode() + body
