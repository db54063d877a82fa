"""The application on a real socket, for a browser; and a second origin that embeds the page."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave Ctrl-C to the test run."""
        yield


def listen() -> socket.socket:
    """A listener on a free port of loopback. Its port is known before the application is built."""
    return socket.create_server(("127.0.0.1", 0))


def origin_of(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


@asynccontextmanager
async def serving(app: Any, listener: socket.socket, *, lifespan: bool = True) -> AsyncIterator[str]:
    """Serve an ASGI application. Connections wait in the listener's queue until it is ready."""
    config = uvicorn.Config(
        app, log_config=None, lifespan="on" if lifespan else "off", timeout_graceful_shutdown=1
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield origin_of(listener)
    finally:
        server.should_exit = True
        await task


class Host:
    """The application of a customer: documents by path, each with the content security policy of that host."""

    def __init__(self) -> None:
        self.documents: dict[str, tuple[str, str, str]] = {}  # path → media type, body, policy

    async def __call__(self, scope: Any, _receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        found = self.documents.get(scope["path"])
        media_type, body, policy = found or ("text/plain", "not found", "default-src 'none'")
        headers = [(b"content-type", media_type.encode()), (b"content-security-policy", policy.encode())]
        await send({"type": "http.response.start", "status": 200 if found else 404, "headers": headers})
        await send({"type": "http.response.body", "body": body.encode()})
