"""A small load generator in a separate process: keep-alive sockets, one request after another on each.

python -m bench.load --port 8000 --connections 16 --seconds 3 < request

It reads the raw HTTP request from standard input. In each copy of the request, `{random}` becomes random hexadecimal
digits of constant length. It prints the number of responses and their latencies as JSON.
"""

import argparse
import asyncio
import json
import secrets
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import cast

import uvloop

HOST = "127.0.0.1"
RANDOM = b"{random}"
RANDOM_BYTES = 40
TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The result of a run."""

    requests: int
    errors: int
    per_second: float
    p50_ms: float
    p99_ms: float


class Connection(asyncio.Protocol):
    """Sends the next request as soon as the last response is complete."""

    def __init__(self, request: bytes, ends_at: float, seconds: list[float], errors: list[int]) -> None:
        self._request = request
        self._ends_at = ends_at
        self._seconds = seconds
        self._errors = errors
        self._received = b""
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(
            "asyncio.Transport", transport
        )  # uvloop's class has the same methods but another base class
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator or len(body) < _content_length(head):
            return
        finished_at = time.perf_counter()
        self._seconds.append(finished_at - self._sent_at)
        if not head.startswith(b"HTTP/1.1 2"):
            self._errors.append(int(head[9:12]))
        self._received = b""
        if finished_at < self._ends_at:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, _error: Exception | None) -> None:
        self.closed.set_result(None)

    def _send(self) -> None:
        self._sent_at = time.perf_counter()
        self._transport.write(self._request.replace(RANDOM, secrets.token_hex(RANDOM_BYTES).encode()))


def request(method: str, path: str, *, token: str = "", body: str = "") -> bytes:
    """Build a raw HTTP/1.1 request."""
    length = len(body.replace(RANDOM.decode(), "0" * 2 * RANDOM_BYTES))
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: {HOST}",
        *([f"Authorization: Bearer {token}"] if token else []),
        *(["Content-Type: application/json", f"Content-Length: {length}"] if body else []),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


async def load(port: int, wire: bytes, *, connections: int, seconds: float) -> Load:
    """Run the generator in a separate process and return its result."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.load", "--port", str(port)),
        *("--connections", str(connections), "--seconds", str(seconds)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(seconds + TIMEOUT_SECONDS):
            output, _ = await process.communicate(wire)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, "the load generator failed"
    return Load(**json.loads(output))


async def _generate(port: int, wire: bytes, *, connections: int, seconds: float) -> Load:
    loop = asyncio.get_running_loop()
    started_at = time.perf_counter()
    times: list[float] = []
    errors: list[int] = []
    opened = [
        await loop.create_connection(
            lambda: Connection(wire, started_at + seconds, times, errors), HOST, port
        )
        for _ in range(connections)
    ]
    await asyncio.gather(*(connection.closed for _, connection in opened))
    took = time.perf_counter() - started_at
    times.sort()
    return Load(
        requests=len(times),
        errors=len(errors),
        per_second=len(times) / took,
        p50_ms=times[len(times) // 2] * 1000,
        p99_ms=times[len(times) * 99 // 100] * 1000,
    )


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    found = uvloop.run(
        _generate(
            options.port, sys.stdin.buffer.read(), connections=options.connections, seconds=options.seconds
        )
    )
    print(json.dumps(asdict(found)))
