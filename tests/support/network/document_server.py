"""Serves JSON documents by path on a loopback port."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class DocumentServer:
    """Responds with 404 to paths that have no document."""

    url: str = ""
    documents: dict[str, Any] = field(default_factory=dict)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ")[1].decode()
            status = "200 OK" if path in self.documents else "404 Not Found"
            body = json.dumps(self.documents.get(path)).encode()
            writer.write(
                f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            )
            writer.write(body)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client closed the connection
        finally:
            writer.close()


@asynccontextmanager
async def serving_documents(tls: ssl.SSLContext | None = None) -> AsyncIterator[DocumentServer]:
    documents = DocumentServer()
    server = await asyncio.start_server(documents.serve, "127.0.0.1", 0, ssl=tls)
    scheme = "http" if tls is None else "https"
    documents.url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield documents
    finally:
        server.close()
        await server.wait_closed()
