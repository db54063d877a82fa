"""A TCP load balancer: each connection goes to the next server that accepts one."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count

_CHUNK = 65536


class LoadBalancer:
    """Forwards bytes in both directions, and closes a connection when its server does."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = ports
        self._numbers = count()
        self.open = Counter[int]()  # connections by the port of their server

    async def forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = next(self._numbers)
        for offset in range(len(self._ports)):
            port = self._ports[(first + offset) % len(self._ports)]
            with suppress(OSError):
                server = await asyncio.open_connection("127.0.0.1", port)
                break
        else:
            writer.close()
            return
        self.open[port] += 1
        try:
            directions = {
                asyncio.create_task(_copy(reader, server[1])),
                asyncio.create_task(_copy(server[0], writer)),
            }
            _, pending = await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
        finally:
            self.open[port] -= 1
            server[1].close()
            writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def load_balancer(*ports: int) -> AsyncIterator[tuple[LoadBalancer, str]]:
    """A balancer before these loopback ports, and its URL."""
    balancer = LoadBalancer(ports)
    server = await asyncio.start_server(balancer.forward, "127.0.0.1", 0)
    async with server:
        yield balancer, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
