"""A receiver of webhooks: a TLS server on loopback that reads messages and answers as it is told."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.integration.egress.far_side import FarServer, Reader, Writer, answer, far_server


@dataclass(frozen=True, kw_only=True)
class Received:
    """One message, as it arrived."""

    target: str
    headers: dict[str, str]
    body: bytes


@dataclass(kw_only=True)
class Receiver:
    """Answers with these statuses by turns, the last for good."""

    statuses: list[str] = field(default_factory=lambda: ["204 No Content"])
    received: list[Received] = field(default_factory=list)
    port: int = 0

    async def play(self, server: FarServer, reader: Reader, writer: Writer) -> None:
        first, *lines = server.requests[-1].splitlines()
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines) if name}
        body = await reader.readexactly(int(headers["content-length"]))
        self.received.append(Received(target=first.split()[1], headers=headers, body=body))
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        location = ["Location: https://elsewhere.example.com/"] if status.startswith("30") else []
        writer.write(answer(b"", *location, status=status))


@asynccontextmanager
async def receiver(statuses: Iterable[str] = ()) -> AsyncIterator[Receiver]:
    """A receiver that is up."""
    found = Receiver()
    found.statuses = list(statuses) or found.statuses

    async def play(reader: Reader, writer: Writer) -> None:
        await found.play(server, reader, writer)

    async with far_server(play) as server:
        found.port = server.port
        yield found
