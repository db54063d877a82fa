"""What clients of open connections see while the server stops."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest
import uvicorn

from app import server
from app.api.http_limits import BoundedHttpProtocol
from tests.support.network.http_server import Echo, connect_to, request
from tests.support.polling import until


class _Server(server._Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the test run."""
        yield


@pytest.fixture
async def serving(echo: Echo, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[server._Server, int]]:
    """A server whose connections stay open longer than any test while it stops, and its port."""
    monkeypatch.setattr(server, "_REUSE_SECONDS", 60)
    listener = socket.create_server(("127.0.0.1", 0))
    running = _Server(
        uvicorn.Config(echo, log_config=None, lifespan="off", http=BoundedHttpProtocol, ws="none")
    )
    task = asyncio.create_task(running.serve(sockets=[listener]))
    yield running, listener.getsockname()[1]
    running.should_exit = True
    await task


async def is_refused(port: int) -> bool:
    try:
        async with connect_to(port):
            return False
    except ConnectionRefusedError:
        return True
    except ConnectionError:
        return False  # reset: the listener closed at the same moment


async def is_holding(echo: Echo) -> bool:
    return echo.held == 1


async def stop(running: server._Server, port: int) -> None:
    """Begin to stop, and wait until new connections are refused."""
    running.should_exit = True
    await until(lambda: is_refused(port), bool)


class TestStop:
    async def test_an_idle_connection_serves_one_more_request(
        self, serving: tuple[server._Server, int]
    ) -> None:
        """The proxy sends it at the moment at which the server stops."""
        running, port = serving
        async with connect_to(port) as client:
            await client.send(request())
            before = await client.read_response()

            await stop(running, port)
            await client.send(request())
            last = await client.read_response()

            assert "connection" not in before.headers
            assert (last.status, last.headers["connection"]) == (200, "close")
            assert await client.is_closed()

    async def test_a_request_in_progress_is_the_last_of_its_connection(
        self, serving: tuple[server._Server, int], echo: Echo
    ) -> None:
        running, port = serving
        async with connect_to(port) as client:
            await client.send(request("/held"))
            await until(lambda: is_holding(echo), bool)

            await stop(running, port)
            echo.release.set()
            last = await client.read_response()

            assert (last.status, last.headers["connection"]) == (200, "close")
            assert await client.is_closed()
