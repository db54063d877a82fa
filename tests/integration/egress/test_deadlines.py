"""Fairness between requests to one host, and the exceptions of failed exchanges."""

import asyncio
import traceback
from functools import partial

import httpcore
import httpx
import pytest

from app.egress.deadline import HTTPX_ERRORS
from app.egress.exceptions import CircuitOpen
from app.egress.transport import EgressLimits
from tests.support.network.scripted_servers import (
    ADDRESS,
    HOST,
    OTHER_ADDRESS,
    URL,
    FixedResolver,
    LoopbackBackend,
    Reader,
    Script,
    ScriptedServer,
    Writer,
    certificate,
    client,
    client_of,
    http_response,
    never_respond,
    respond_always,
    scripted_server,
)
from tests.support.polling import until

CANARY = "sk-ant-api03-canary"
MEGABYTE = 1024 * 1024


async def connections_of(server: ScriptedServer) -> int:
    return server.connections


class TestFairness:
    async def test_concurrent_requests_to_one_host_are_limited(self) -> None:
        resolver = FixedResolver(gw_example_com=[[ADDRESS]], other_example_com=[[OTHER_ADDRESS]])
        limits = EgressLimits(connections_per_host=1)
        timeout = httpx.Timeout(1.0, pool=0.02)
        cert = certificate(HOST, "other.example.com")
        async with scripted_server(respond_always(http_response()), cert) as server:
            backend = LoopbackBackend({ADDRESS: server.port, OTHER_ADDRESS: server.port})
            async with client(resolver, backend, limits=limits) as http:
                async with http.stream("GET", URL):
                    with pytest.raises(httpx.PoolTimeout):
                        await http.get(URL, timeout=timeout)
                    other_host = await http.get("https://other.example.com/", timeout=timeout)
                later = await http.get(URL, timeout=timeout)

        assert (other_host.status_code, later.status_code) == (200, 200)

    @pytest.mark.parametrize(
        "script",
        [
            never_respond,
            respond_always(http_response(bytes(2 * MEGABYTE))),
            respond_always(b"nonsense\r\n\r\n"),
        ],
    )
    async def test_failed_request_releases_its_slot(self, script: Script) -> None:
        limits = EgressLimits(connections=1, connections_per_host=1, timeout_threshold=100)
        async with scripted_server(script) as server, client_of(server, limits=limits) as http:
            failures = []
            for _ in range(3):
                with pytest.raises(httpx.TransportError) as caught:
                    await http.get(URL, timeout=httpx.Timeout(1.0, read=0.02, pool=0.02))
                failures.append(type(caught.value))

        assert httpx.PoolTimeout not in failures

    async def test_cancelled_request_releases_its_slot(self) -> None:
        limits = EgressLimits(connections=1, connections_per_host=1)
        async with scripted_server(never_respond) as server, client_of(server, limits=limits) as http:
            for number in range(1, 4):
                request = asyncio.create_task(http.get(URL, timeout=30))
                # The next request gets the slot and a connection only if the previous one released it.
                await until(partial(connections_of, server), number.__eq__)
                request.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await request

    async def test_circuit_opens_only_for_the_path_that_times_out(self) -> None:
        async def script(_reader: Reader, writer: Writer) -> None:
            if server.requests[-1].startswith("GET /hangs "):
                await asyncio.Event().wait()
            writer.write(http_response())

        limits = EgressLimits(timeout_threshold=2)
        timeout = httpx.Timeout(1.0, read=0.02)
        async with scripted_server(script) as server, client_of(server, limits=limits) as http:
            for _ in range(2):
                with pytest.raises(httpx.ReadTimeout):
                    await http.get(f"https://{HOST}/hangs", timeout=timeout)
            with pytest.raises(CircuitOpen):
                await http.get(f"https://{HOST}/hangs", timeout=timeout)
            other_path = await http.get(f"https://{HOST}/responds", timeout=httpx.Timeout(1.0))

        assert other_path.status_code == 200
        assert sum(request.startswith("GET /hangs ") for request in server.requests) == 2


class TestFailures:
    def test_every_httpcore_exception_maps_to_its_httpx_namesake(self) -> None:
        failures = {
            kind
            for name in httpcore.__all__
            if isinstance(kind := getattr(httpcore, name), type)
            and issubclass(kind, Exception)
            and kind is not httpcore.ConnectionNotAvailable  # stays inside the pool
        }

        assert set(HTTPX_ERRORS) == failures
        assert all(ours.__name__ == theirs.__name__ for theirs, ours in HTTPX_ERRORS.items())

    async def test_refused_connection_is_a_connect_error(self) -> None:
        async with client(FixedResolver(gw_example_com=[[ADDRESS]]), LoopbackBackend({})) as http:
            with pytest.raises(httpx.ConnectError) as caught:
                await http.get(URL)

        assert isinstance(caught.value.__cause__, httpcore.ConnectError)
        assert caught.value.request.url == URL

    async def test_exception_does_not_quote_received_bytes(self) -> None:
        async with (
            scripted_server(respond_always(f"HTTP/1.1 200 OK\r\n{CANARY}\r\n\r\n".encode())) as server,
            client_of(server) as http,
        ):
            with pytest.raises(httpx.RemoteProtocolError) as caught:
                await http.get(URL)

        assert CANARY not in chain_of(caught.value)

    async def test_exception_does_not_quote_sent_bytes(self) -> None:
        async with scripted_server(respond_always(http_response())) as server, client_of(server) as http:
            with pytest.raises(httpx.LocalProtocolError) as caught:
                await http.get(URL, headers={"x-api-key": f"{CANARY}\n"})

        assert CANARY not in chain_of(caught.value)
        assert server.requests == []


def chain_of(error: BaseException) -> str:
    lines = []
    link: BaseException | None = error
    while link is not None:
        lines += traceback.format_exception_only(link)
        link = link.__cause__ or link.__context__
    return "".join(lines)
