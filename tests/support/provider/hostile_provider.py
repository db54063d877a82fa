"""A hostile provider that returns the key in every possible part of an HTTP response, valid or not."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

# `%b` is replaced by the key.
RESPONSES = (
    b"%b\r\n\r\n",
    b"HTTP/1.1 %b OK\r\n\r\n",
    b"HTTP/9.9 200 %b\r\n\r\n",
    b"HTTP/1.1 200 %b\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\n%b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n%b: 1\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length: %b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: %b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%b\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 108\r\n\r\n%b",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n%b",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: %b\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: https://%b.example.com/%b?%b\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer realm=%b\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 400 Bad Request\r\nrequest-id: %b\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 400 Bad Request\r\nrequest-id: req_%b\r\nSet-Cookie: %b=%b\r\nContent-Length: 0\r\n\r\n",
    b'HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n{"type": "error", "request_id": "req_%b"}',
    b'HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n{"error": {"type": "%b", "message": "%b"}}',
)
_KEY = re.compile(rb"(?:x-api-key: |Bearer )([^\r\n]+)", re.IGNORECASE)


@asynccontextmanager
async def hostile_provider() -> AsyncIterator[str]:
    """Run the provider and yield its base URL. Connections get the responses one after the other, repeatedly."""
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        try:
            found = _KEY.search(await reader.readuntil(b"\r\n\r\n"))
            response = RESPONSES[connections % len(RESPONSES)]
            connections += 1
            if found is not None:
                writer.write(response.replace(b"%b", found[1]))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client closed the connection
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
