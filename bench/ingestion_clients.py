"""Clients that send prepared batches one after another, in a separate process.

python -m bench.ingestion_clients --port 8000 --path /v1/... --batches 50 < token

Prints the number of accepted events and the duration as JSON. With --stream, all events are sent as one body.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import uvloop

from bench.events import ndjson

HOST = "127.0.0.1"
BATCH = 1000
TIMEOUT_SECONDS = 500.0


async def send(
    port: int, path: str, token: str, *, batches: int, clients: int = 2, stream: bool = False
) -> dict[str, Any]:
    """Run the clients in a separate process and return their output."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.ingestion_clients", "--port", str(port), "--path", path),
        *("--batches", str(batches), "--clients", str(clients), *(["--stream"] if stream else [])),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            output, _ = await process.communicate(token.encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, "the clients failed"
    found: dict[str, Any] = json.loads(output)
    return found


async def _clients(port: int, path: str, token: str, *, batches: int, clients: int) -> dict[str, Any]:
    bodies = [ndjson(BATCH) for _ in range(batches)]
    connections = [await asyncio.open_connection(HOST, port) for _ in range(clients)]
    started_at = time.perf_counter()

    async def send_batches(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        accepted = 0
        while bodies:
            body = bodies.pop()
            writer.write(_head(path, token, f"Content-Length: {len(body)}") + body)
            accepted += (await _read_response(reader))["accepted"]
        writer.close()
        return accepted

    accepted = sum(await asyncio.gather(*(send_batches(*pair) for pair in connections)))
    return {"accepted": accepted, "seconds": time.perf_counter() - started_at}


async def _stream(port: int, path: str, token: str, *, batches: int) -> dict[str, Any]:
    """Send one body, which is generated while it is sent."""
    reader, writer = await asyncio.open_connection(HOST, port)
    started_at = time.perf_counter()
    writer.write(_head(path, token, "Transfer-Encoding: chunked"))
    async for part in _parts(batches):
        writer.write(b"%x\r\n%b\r\n" % (len(part), part))
        await writer.drain()
    writer.write(b"0\r\n\r\n")
    response = await _read_response(reader)
    writer.close()
    return {"accepted": response["accepted"], "seconds": time.perf_counter() - started_at}


async def _parts(batches: int) -> AsyncIterator[bytes]:
    for _ in range(batches):
        yield await asyncio.to_thread(ndjson, BATCH)


def _head(path: str, token: str, length: str) -> bytes:
    lines = (
        f"POST {path} HTTP/1.1",
        f"Host: {HOST}",
        f"Authorization: Bearer {token}",
        "Content-Type: application/x-ndjson",
        length,
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def _read_response(reader: asyncio.StreamReader) -> dict[str, Any]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
    )
    body: dict[str, Any] = json.loads(await reader.readexactly(length))
    assert head.startswith(b"HTTP/1.1 200"), body
    return body


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--batches", type=int, required=True)
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--stream", action="store_true")
    options = parser.parse_args()
    token = sys.stdin.read()
    sending = (
        _stream(options.port, options.path, token, batches=options.batches)
        if options.stream
        else _clients(options.port, options.path, token, batches=options.batches, clients=options.clients)
    )
    print(json.dumps(uvloop.run(sending)))
