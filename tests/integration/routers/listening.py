"""A server on a real socket with our protocol, a small application behind it, and a client of raw bytes."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.http_limits import BoundedHttpProtocol

PATIENCE_SECONDS = 20
KEEP_ALIVE_SECONDS = 60  # longer than any test waits: what closes before is what the test is about


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ctrl-C is the test run's."""
        yield


@dataclass
class Echo:
    """Tells the path, the names of the headers after the body was read, and the size of the body."""

    release: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = 0
        if scope["path"] == "/held":
            await self.release.wait()
        more = scope["path"] != "/unread"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        names = [name.decode() for name, _ in scope["headers"]]
        told = json.dumps({"path": scope["path"], "size": size, "headers": names}).encode()
        headers = [(b"content-length", str(len(told)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": told})


@dataclass(frozen=True)
class Answer:
    """One answer, as it came."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Client:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, *parts: bytes) -> None:
        """All that the other side takes: it may close in the middle."""
        with suppress(ConnectionError):
            for part in parts:
                self.writer.write(part)
                await self.writer.drain()

    async def answer(self) -> Answer:
        async with asyncio.timeout(PATIENCE_SECONDS):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {
                name.lower(): value.strip()
                for name, _, value in (line.partition(":") for line in head[1:] if line)
            }
            body = await self.reader.readexactly(int(headers["content-length"]))
        return Answer(int(head[0].split(" ")[1]), headers, body)

    async def is_closed(self) -> bool:
        """Whether the other side ends the connection, and says nothing more."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True


@asynccontextmanager
async def listening(
    app: ASGIApp,
    *,
    protocol: type[BoundedHttpProtocol] = BoundedHttpProtocol,
    keep_alive_seconds: int = KEEP_ALIVE_SECONDS,
) -> AsyncIterator[int]:
    """Serve; the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        log_config=None,
        lifespan="off",
        http=protocol,
        ws="none",
        timeout_keep_alive=keep_alive_seconds,
        timeout_graceful_shutdown=1,  # a request that is held when a test fails
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await serving


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Client]:
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
