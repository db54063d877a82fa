"""The clients of the soak: messages, streams, and streams that their client leaves."""

import asyncio
import random
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp

from bench.relay.peers import MODEL
from bench.relay.setup import Peer

CLIENTS = 32  # fewer than the slots of an organization
ABORTS = 0.05
STREAMS = 0.25
OK, OVERLOADED = 200, 529
BODY = (
    f'{{"model": "{MODEL}", "max_tokens": 100, "messages": [{{"role": "user", "content": "{"x" * 900}"}}]}}'
)
STREAM_BODY = BODY[:-1] + ', "stream": true}'


@dataclass(kw_only=True)
class Seen:
    """What the clients saw, and the memory of the relay meanwhile."""

    statuses: Counter[int] = field(default_factory=Counter)
    aborted: int = 0
    incomplete: int = 0
    broken: int = 0
    rotations: int = 0
    failed_rotations: int = 0
    memory_kb: list[float] = field(default_factory=list)

    @property
    def errors(self) -> int:
        """Responses that the provider did not send."""
        others = self.statuses.total() - self.statuses[OK] - self.statuses[OVERLOADED]
        return others + self.incomplete + self.broken

    @property
    def growth(self) -> float:
        """How much more memory the last quarter took than the second one. The first quarter is the warm-up."""
        quarter = max(1, len(self.memory_kb) // 4)
        before = statistics.median(self.memory_kb[quarter : 2 * quarter] or self.memory_kb)
        return statistics.median(self.memory_kb[-quarter:]) / before - 1


class Clients:
    """Sends a steady rate of calls. A client that is late does not make up for it.

    Args:
        peer: the relay.
        seen: gets what the clients see.
        rate: calls a second, of all clients together.
    """

    def __init__(self, peer: Peer, seen: Seen, *, rate: float) -> None:
        self._url = f"http://127.0.0.1:{peer.port}{peer.prefix}/v1/messages"
        self._headers = {"x-api-key": peer.token, "content-type": "application/json"}
        self._seen = seen
        self._pause = CLIENTS / rate

    async def run(self, *, is_over: Callable[[], bool]) -> None:
        """Send calls until `is_over`."""
        connector = aiohttp.TCPConnector(limit=0, force_close=False)
        async with aiohttp.ClientSession(
            connector=connector, headers=self._headers, timeout=aiohttp.ClientTimeout(total=60)
        ) as http:
            await asyncio.gather(*(self._client(http, is_over) for _ in range(CLIENTS)))

    async def _client(self, http: aiohttp.ClientSession, is_over: Callable[[], bool]) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + random.random() * self._pause
        while not is_over():
            await asyncio.sleep(max(0.0, due - loop.time()))
            due = max(due + self._pause, loop.time())
            try:
                await self._send(http)
            except (aiohttp.ClientError, TimeoutError):
                self._seen.broken += 1

    async def _send(self, http: aiohttp.ClientSession) -> None:
        drawn = random.random()
        leaves, is_stream = drawn < ABORTS, drawn < ABORTS + STREAMS
        async with http.post(self._url, data=STREAM_BODY if is_stream else BODY) as response:
            self._seen.statuses[response.status] += 1
            if response.status != OK:
                await response.read()
            elif leaves:
                await response.content.readuntil(b"\n\n")
                response.close()
                self._seen.aborted += 1
            elif is_stream:
                self._seen.incomplete += b"event: message_stop" not in await response.read()
            else:
                self._seen.incomplete += b'"usage"' not in await response.read()
