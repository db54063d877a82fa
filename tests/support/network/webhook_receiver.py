"""A webhook receiver: a TLS server on loopback that records messages and responds with the given statuses."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.support.network.scripted_servers import (
    HOST,
    Reader,
    ScriptedServer,
    Writer,
    certificate,
    http_response,
    scripted_server,
)


@dataclass(frozen=True, kw_only=True)
class ReceivedMessage:
    """One received message."""

    target: str
    headers: dict[str, str]
    body: bytes


@dataclass(kw_only=True)
class WebhookReceiver:
    """Responds with these statuses one after the other and repeats the last one. Waits while `gate` is not set."""

    statuses: list[str] = field(default_factory=lambda: ["204 No Content"])
    received: list[ReceivedMessage] = field(default_factory=list)
    port: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def respond(self, server: ScriptedServer, reader: Reader, writer: Writer) -> None:
        first, *lines = server.requests[-1].splitlines()
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines) if name}
        body = await reader.readexactly(int(headers["content-length"]))
        self.received.append(ReceivedMessage(target=first.split()[1], headers=headers, body=body))
        await self.gate.wait()
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        location = ["Location: https://elsewhere.example.com/"] if status.startswith("30") else []
        writer.write(http_response(b"", *location, status=status))


@asynccontextmanager
async def webhook_receiver(
    statuses: Iterable[str] = (), *, host: str = HOST
) -> AsyncIterator[WebhookReceiver]:
    """Run a receiver."""
    found = WebhookReceiver()
    found.gate.set()
    found.statuses = list(statuses) or found.statuses

    async def respond(reader: Reader, writer: Writer) -> None:
        await found.respond(server, reader, writer)

    async with scripted_server(respond, certificate(host)) as server:
        found.port = server.port
        yield found
