"""Exchanges: how requests to one host affect the others, and what failures say."""

import asyncio
import traceback
from functools import partial

import httpcore
import httpx
import pytest

from app.egress.deadline import COUNTERPARTS
from app.egress.exceptions import HostSuspended
from app.egress.transport import EgressLimits
from tests.integration.egress.far_side import (
    ADDRESS,
    HOST,
    OTHER_ADDRESS,
    URL,
    Detour,
    FarServer,
    FixedResolver,
    Reader,
    Script,
    Writer,
    always,
    answer,
    certificate,
    client,
    client_of,
    far_server,
    silence,
)
from tests.waiting import until

CANARY = "sk-ant-api03-canary"
MEGABYTE = 1024 * 1024


async def connections_of(server: FarServer) -> int:
    return server.connections


class TestFairness:
    async def test_one_host_gets_so_many_requests_at_a_time(self) -> None:
        resolver = FixedResolver(gw_example_com=[[ADDRESS]], other_example_com=[[OTHER_ADDRESS]])
        limits = EgressLimits(connections_per_host=1)
        impatient = httpx.Timeout(1.0, pool=0.02)
        cert = certificate(HOST, "other.example.com")
        async with far_server(always(answer()), cert) as server:
            detour = Detour({ADDRESS: server.port, OTHER_ADDRESS: server.port})
            async with client(resolver, detour, limits=limits) as http:
                async with http.stream("GET", URL):
                    with pytest.raises(httpx.PoolTimeout):
                        await http.get(URL, timeout=impatient)
                    elsewhere = await http.get("https://other.example.com/", timeout=impatient)
                afterwards = await http.get(URL, timeout=impatient)

        assert (elsewhere.status_code, afterwards.status_code) == (200, 200)

    @pytest.mark.parametrize(
        "play", [silence, always(answer(bytes(2 * MEGABYTE))), always(b"nonsense\r\n\r\n")]
    )
    async def test_a_request_that_fails_gives_its_place_back(self, play: Script) -> None:
        limits = EgressLimits(connections=1, connections_per_host=1, hangs_before_pause=100)
        async with far_server(play) as server, client_of(server, limits=limits) as http:
            failures = []
            for _ in range(3):
                with pytest.raises(httpx.TransportError) as caught:
                    await http.get(URL, timeout=httpx.Timeout(1.0, read=0.02, pool=0.02))
                failures.append(type(caught.value))

        assert httpx.PoolTimeout not in failures

    async def test_a_request_that_is_cancelled_gives_its_place_back(self) -> None:
        limits = EgressLimits(connections=1, connections_per_host=1)
        async with far_server(silence) as server, client_of(server, limits=limits) as http:
            for number in range(1, 4):
                request = asyncio.create_task(http.get(URL, timeout=30))
                # The next one gets its place, and so its connection, only if the one before gave it back.
                await until(partial(connections_of, server), number.__eq__)
                request.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await request

    async def test_what_hangs_again_and_again_is_left_alone_and_its_neighbours_are_not(self) -> None:
        async def play(_reader: Reader, writer: Writer) -> None:
            if server.requests[-1].startswith("GET /hangs "):
                await asyncio.Event().wait()
            writer.write(answer())

        limits = EgressLimits(hangs_before_pause=2)
        patience = httpx.Timeout(1.0, read=0.02)
        async with far_server(play) as server, client_of(server, limits=limits) as http:
            for _ in range(2):
                with pytest.raises(httpx.ReadTimeout):
                    await http.get(f"https://{HOST}/hangs", timeout=patience)
            with pytest.raises(HostSuspended):
                await http.get(f"https://{HOST}/hangs", timeout=patience)
            neighbour = await http.get(f"https://{HOST}/answers", timeout=httpx.Timeout(1.0))

        assert neighbour.status_code == 200
        assert sum(request.startswith("GET /hangs ") for request in server.requests) == 2


class TestFailures:
    def test_every_failure_of_httpcore_has_its_namesake_in_httpx(self) -> None:
        failures = {
            kind
            for name in httpcore.__all__
            if isinstance(kind := getattr(httpcore, name), type)
            and issubclass(kind, Exception)
            and kind is not httpcore.ConnectionNotAvailable  # stays inside the pool
        }

        assert set(COUNTERPARTS) == failures
        assert all(ours.__name__ == theirs.__name__ for theirs, ours in COUNTERPARTS.items())

    async def test_a_refused_connection_is_a_connect_error(self) -> None:
        async with client(FixedResolver(gw_example_com=[[ADDRESS]]), Detour({})) as http:
            with pytest.raises(httpx.ConnectError) as caught:
                await http.get(URL)

        assert isinstance(caught.value.__cause__, httpcore.ConnectError)
        assert caught.value.request.url == URL

    async def test_what_the_peer_sent_is_not_quoted(self) -> None:
        async with (
            far_server(always(f"HTTP/1.1 200 OK\r\n{CANARY}\r\n\r\n".encode())) as server,
            client_of(server) as http,
        ):
            with pytest.raises(httpx.RemoteProtocolError) as caught:
                await http.get(URL)

        assert CANARY not in chain_of(caught.value)

    async def test_what_we_would_have_sent_is_not_quoted(self) -> None:
        async with far_server(always(answer())) as server, client_of(server) as http:
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
