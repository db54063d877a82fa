"""A provider on a real socket whose response a test scripts, byte for byte, and that sees when its peer hangs up.

The header `x-stainless-script` names the script. Requests of validations, which have no such header, get a list of models.
"""

import asyncio
import hashlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

MODEL = "claude-haiku-5-5"
USAGE = {"input_tokens": 12, "output_tokens": 34, "service_tier": "standard"}

Script = Callable[["Exchange"], Awaitable[None]]


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:16]


@dataclass(kw_only=True, eq=False)
class Exchange:
    """One request that the provider received, and the connection to respond on."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    reader: asyncio.StreamReader = field(repr=False)
    writer: asyncio.StreamWriter = field(repr=False)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def key(self) -> str:
        return self.headers.get("x-api-key") or self.headers["authorization"].removeprefix("Bearer ")

    async def head(self, status: int, headers: Mapping[str, str], *, length: int | None = None) -> None:
        """Send a head. Without a length, the body is chunked."""
        framing = {"transfer-encoding": "chunked"} if length is None else {"content-length": str(length)}
        lines = [
            f"HTTP/1.1 {status} X",
            *(f"{name}: {value}" for name, value in {**headers, **framing}.items()),
        ]
        await self.raw(("\r\n".join(lines) + "\r\n\r\n").encode())

    async def chunk(self, data: bytes) -> None:
        await self.raw(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self) -> None:
        await self.raw(b"0\r\n\r\n")

    async def raw(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def respond(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        base = {"content-type": "application/json", "request-id": "req_provider"}
        await self.head(status, base | dict(headers or {}), length=len(data))
        await self.raw(data)

    async def until_hung_up(self) -> None:
        """Wait until the peer closes the connection."""
        with suppress(ConnectionError):
            while await self.reader.read(1024):
                pass
        self.hung_up.set()

    def cut(self) -> None:
        """Reset the connection."""
        self.writer.transport.abort()


def event(name: str, **data: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n".encode()


def events(
    *texts: str, usage: Mapping[str, Any] = USAGE, model: str = MODEL, is_complete: bool = True
) -> list[bytes]:
    """The events of a streamed message, one for each text."""
    start = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "usage": {**usage, "output_tokens": 1},
    }
    block = {"type": "text", "text": ""}
    made = [
        event("message_start", message=start),
        event("content_block_start", index=0, content_block=block),
        event("ping"),
        *(event("content_block_delta", index=0, delta={"type": "text_delta", "text": it}) for it in texts),
    ]
    if is_complete:
        made += [
            event("content_block_stop", index=0),
            event(
                "message_delta",
                delta={"stop_reason": "end_turn", "stop_sequence": None},
                usage={"output_tokens": usage["output_tokens"]},
            ),
            event("message_stop"),
        ]
    return made


def message(*, usage: Mapping[str, Any] = USAGE, model: str = MODEL, text: str = "Hello") -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": dict(usage),
    }


def error(kind: str, text: str, **details: Any) -> dict[str, Any]:
    found = {"type": kind, "message": text} | ({"details": details} if details else {})
    return {"type": "error", "error": found, "request_id": "req_provider"}


async def reply(exchange: Exchange) -> None:
    """The default script: a message, or a stream if the request asks for one."""
    if exchange.target.startswith("/v1/models"):
        model = {"type": "model", "id": MODEL, "display_name": "Haiku", "created_at": "2026-01-01T00:00:00Z"}
        page = {"data": [model], "has_more": False, "first_id": MODEL, "last_id": MODEL}
        await exchange.respond(
            200,
            page if exchange.target.startswith("/v1/models?") or exchange.target == "/v1/models" else model,
        )
    elif exchange.target.startswith("/v1/messages/count_tokens"):
        await exchange.respond(200, {"input_tokens": 7})
    elif json.loads(exchange.body).get("stream"):
        await stream(exchange, events("Hel", "lo"))
    else:
        await exchange.respond(200, message())


async def stream(exchange: Exchange, chunks: Sequence[bytes], *, is_ended: bool = True) -> None:
    """Send these chunks as a stream of events."""
    headers = {"content-type": "text/event-stream; charset=utf-8", "request-id": "req_provider"}
    await exchange.head(200, headers)
    for one in chunks:
        await exchange.chunk(one)
    if is_ended:
        await exchange.end()


class ScriptedProvider:
    """Records every request, and runs its script."""

    def __init__(self) -> None:
        self.base_url = ""
        self.exchanges: list[Exchange] = []
        self.scripts: dict[str, Script] = {}
        self.refused_keys: set[str] = set()
        self.open_connections = 0
        self._arrived = asyncio.Condition()

    def script(self, name: str, run: Script) -> dict[str, str]:
        """Register a script, and return the headers that select it."""
        self.scripts[name] = run
        return {"x-stainless-script": name}

    async def nth(self, name: str, number: int = 1) -> Exchange:
        """Wait for the nth request that selected this script."""

        def found() -> list[Exchange]:
            return [it for it in self.exchanges if it.headers.get("x-stainless-script") == name]

        async with asyncio.timeout(10), self._arrived:
            await self._arrived.wait_for(lambda: len(found()) >= number)
        return found()[number - 1]

    def messages(self) -> list[Exchange]:
        """The requests that were relayed for a message."""
        return [it for it in self.exchanges if it.target.partition("?")[0] == "/v1/messages"]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open_connections += 1
        try:
            while exchange := await _read(reader, writer):
                self.exchanges.append(exchange)
                async with self._arrived:
                    self._arrived.notify_all()
                await self._respond(exchange)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open_connections -= 1
            writer.close()

    async def _respond(self, exchange: Exchange) -> None:
        if exchange.key in self.refused_keys:
            await exchange.respond(401, error("authentication_error", "API key is invalid."))
            return
        await self.scripts.get(exchange.headers.get("x-stainless-script", ""), reply)(exchange)


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Exchange | None:
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    method, target, _ = lines[0].split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Exchange(method=method, target=target, headers=headers, body=body, reader=reader, writer=writer)


@asynccontextmanager
async def serve_scripted(tls: ssl.SSLContext | None = None) -> AsyncIterator[ScriptedProvider]:
    """Serve a new provider on loopback, with TLS if a context is given."""
    provider = ScriptedProvider()
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await provider.serve(reader, writer)
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    scheme = "http" if tls is None else "https"
    provider.base_url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield provider
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
