"""A receiver of webhooks: a TLS server on loopback that reads messages and answers as it is told."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.integration.egress.far_side import HOST, FarServer, Reader, Writer, answer, certificate, far_server


@dataclass(frozen=True, kw_only=True)
class Received:
    """One message, as it arrived."""

    target: str
    headers: dict[str, str]
    body: bytes


@dataclass(kw_only=True)
class Receiver:
    """Answers with these statuses by turns, the last for good; not while the gate is closed."""

    statuses: list[str] = field(default_factory=lambda: ["204 No Content"])
    received: list[Received] = field(default_factory=list)
    port: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def play(self, server: FarServer, reader: Reader, writer: Writer) -> None:
        first, *lines = server.requests[-1].splitlines()
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines) if name}
        body = await reader.readexactly(int(headers["content-length"]))
        self.received.append(Received(target=first.split()[1], headers=headers, body=body))
        await self.gate.wait()
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        location = ["Location: https://elsewhere.example.com/"] if status.startswith("30") else []
        writer.write(answer(b"", *location, status=status))


@asynccontextmanager
async def receiver(statuses: Iterable[str] = (), *, host: str = HOST) -> AsyncIterator[Receiver]:
    """A receiver that is up."""
    found = Receiver()
    found.gate.set()
    found.statuses = list(statuses) or found.statuses

    async def play(reader: Reader, writer: Writer) -> None:
        await found.play(server, reader, writer)

    async with far_server(play, certificate(host)) as server:
        found.port = server.port
        yield found
