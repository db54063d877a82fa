"""The relay's HTTP client: which destinations it connects to, and how it verifies their identity."""

import asyncio

import pytest
import trustme

from app.relay.transport import (
    ProviderAddressRefused,
    ProviderResponseRefused,
    ProviderTimeout,
    ProviderUnreachable,
    Timeouts,
    TransportError,
)
from tests.support.network.scripted_servers import (
    ADDRESS,
    HOST,
    OTHER_ADDRESS,
    FixedResolver,
    certificate,
    http_response,
    never_respond,
    respond_always,
    scripted_server,
)
from tests.support.polling import until
from tests.support.relay.provider_client import body_of, get, post, provider_client

OK = respond_always(http_response())
OK_AND_CLOSE = respond_always(http_response(b"{}", "Connection: close"))


class TestAddresses:
    async def test_host_that_becomes_private_is_not_connected_again(self) -> None:
        resolver = FixedResolver(gw_example_com=[[ADDRESS], ["127.0.0.1"]])
        connected: list[str] = []
        async with (
            scripted_server(OK_AND_CLOSE) as server,
            provider_client(server, resolver=resolver, connected=connected) as client,
        ):
            first = await client.open(post())
            await body_of(first)
            request = post()
            with pytest.raises(ProviderAddressRefused):
                await client.open(request)

        assert (first.status, connected, server.connections) == (200, [ADDRESS], 1)
        assert not request.was_sent

    async def test_open_connection_is_reused_without_a_lookup(self) -> None:
        resolver = FixedResolver(gw_example_com=[[ADDRESS], ["127.0.0.1"]])
        async with scripted_server(OK) as server, provider_client(server, resolver=resolver) as client:
            for _ in range(3):
                await body_of(await client.open(get()))

        assert (server.connections, len(server.requests), resolver.queries) == (1, 3, [HOST])

    async def test_every_new_connection_is_resolved_again(self) -> None:
        resolver = FixedResolver(gw_example_com=[[ADDRESS]])
        async with (
            scripted_server(OK_AND_CLOSE) as server,
            provider_client(server, resolver=resolver) as client,
        ):
            for _ in range(3):
                await body_of(await client.open(post()))

        assert resolver.queries == [HOST] * 3

    @pytest.mark.parametrize(
        "addresses",
        [
            ["127.0.0.1"],
            [ADDRESS, "10.0.0.5"],
            ["10.0.0.5", ADDRESS],
            [ADDRESS, "fd00::1"],
            ["169.254.169.254"],
        ],
    )
    async def test_one_private_address_is_enough_to_refuse(self, addresses: list[str]) -> None:
        connected: list[str] = []
        resolver = FixedResolver(gw_example_com=[addresses])
        async with provider_client(resolver=resolver, connected=connected) as client:
            with pytest.raises(ProviderAddressRefused) as caught:
                await client.open(post())

        assert (connected, caught.value.was_sent) == ([], False)

    @pytest.mark.parametrize("addresses", [[], None])
    async def test_host_without_addresses_is_unreachable(self, addresses: list[str] | None) -> None:
        resolver = FixedResolver(gw_example_com=[addresses])
        async with provider_client(resolver=resolver) as client:
            with pytest.raises(ProviderUnreachable) as caught:
                await client.open(post())

        assert not caught.value.was_sent

    async def test_tries_at_most_six_addresses(self) -> None:
        connected: list[str] = []
        resolver = FixedResolver(gw_example_com=[[f"160.79.104.{last}" for last in range(10, 30)]])
        async with provider_client(resolver=resolver, connected=connected) as client:
            with pytest.raises(ProviderUnreachable):
                await client.open(post())

        assert len(connected) == 6

    async def test_lookup_that_hangs_ends_at_the_connect_timeout(self) -> None:
        resolver = FixedResolver(gw_example_com=[[ADDRESS]])
        resolver.blocked[HOST] = asyncio.Event()
        timeouts = Timeouts(connect_seconds=0.1, upload_seconds=5, idle_seconds=5)
        async with provider_client(resolver=resolver, timeouts=timeouts) as client:
            with pytest.raises(ProviderTimeout) as caught:
                await client.open(post())

        assert not caught.value.was_sent


class TestUrls:
    @pytest.mark.parametrize(
        "url",
        [
            f"http://{HOST}/v1/messages",
            f"https://{HOST}:8443/v1/messages",
            f"https://user@{HOST}/v1/messages",
            f"https://{ADDRESS}/v1/messages",
            "https://[2606:4700::1]/v1/messages",
            "https://0x7f.1/v1/messages",
            "https://localhost/v1/messages",
            "https://metadata.google.internal/v1/messages",
            f"https://{HOST}./v1/messages",
        ],
    )
    async def test_policy_applies_to_every_request(self, url: str) -> None:
        resolver, connected = FixedResolver(gw_example_com=[[ADDRESS]]), list[str]()
        async with provider_client(resolver=resolver, connected=connected) as client:
            with pytest.raises(ProviderAddressRefused):
                await client.open(post(url))

        assert (resolver.queries, connected) == ([], [])

    async def test_query_and_path_are_sent_as_they_are(self) -> None:
        target = "/v1/models/claude-3.5@a:b?beta=true&lifecycle[]=active&after_id=a%20b"
        async with scripted_server(OK) as server, provider_client(server) as client:
            await body_of(await client.open(get(f"https://{HOST}{target}")))

        assert server.requests[0].startswith(f"GET {target} HTTP/1.1\r\n")

    @pytest.mark.parametrize("other", ["http://127.0.0.1:{port}", "https://127.0.0.1:9", f"https://{HOST}"])
    async def test_operators_client_reaches_only_its_origin(self, other: str) -> None:
        async with (
            scripted_server(OK, tls=False) as server,
            provider_client(operator_base_url="http://127.0.0.1:9") as client,
        ):
            with pytest.raises(ProviderAddressRefused):
                await client.open(post(other.format(port=server.port) + "/v1/messages", is_custom=False))

        assert server.connections == 0

    @pytest.mark.parametrize("host", ["127.0.0.1", "LOCALHOST"])
    async def test_operators_endpoint_may_be_on_loopback_in_any_spelling(self, host: str) -> None:
        async with scripted_server(OK, tls=False) as server:
            base_url = f"http://{host}:{server.port}"
            async with provider_client(operator_base_url=base_url) as client:
                response = await client.open(post(f"{base_url}/v1/messages", is_custom=False))
                assert await body_of(response) == b"{}"


class TestIdentity:
    async def test_name_is_sent_and_verified(self) -> None:
        async with scripted_server(OK) as server, provider_client(server) as client:
            await body_of(await client.open(post()))

        assert server.server_names == [HOST]
        assert f"\r\nHost: {HOST}\r\n" in server.requests[0]

    @pytest.mark.parametrize(
        "cert",
        [
            certificate("other.example.com"),
            certificate(ADDRESS),
            certificate(HOST, authority=trustme.CA()),
        ],
        ids=["other name", "address", "other authority"],
    )
    async def test_wrong_certificate_gets_no_request(self, cert: trustme.LeafCert) -> None:
        async with scripted_server(OK, cert) as server, provider_client(server) as client:
            request = post()
            with pytest.raises(ProviderUnreachable) as caught:
                await client.open(request)

        assert (server.requests, request.was_sent, caught.value.was_sent) == ([], False, False)

    async def test_plain_server_behind_https_gets_no_request(self) -> None:
        async with scripted_server(OK, tls=False) as server, provider_client(server) as client:
            with pytest.raises(TransportError):
                await client.open(post())

        assert server.requests == []


class TestEnvironment:
    async def test_ignores_proxies(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        async with scripted_server(OK) as server, provider_client(server) as client:
            assert (await client.open(post())).status == 200

    @pytest.mark.parametrize(
        "status", ["301 Moved", "303 See Other", "307 Temporary", "308 Permanent", "304 Same"]
    )
    async def test_redirect_is_refused_and_not_followed(self, status: str) -> None:
        redirect = respond_always(http_response(b"", f"Location: https://{HOST}/elsewhere", status=status))
        connected: list[str] = []
        async with (
            scripted_server(redirect) as server,
            provider_client(server, connected=connected) as client,
        ):
            with pytest.raises(ProviderResponseRefused) as caught:
                await client.open(post())

        assert (len(server.requests), connected, caught.value.was_sent) == (1, [ADDRESS], True)

    async def test_cookies_are_not_kept(self) -> None:
        cookie = respond_always(http_response(b"{}", "Set-Cookie: session=1; path=/"))
        async with scripted_server(cookie) as server, provider_client(server) as client:
            for _ in range(2):
                await body_of(await client.open(post()))

        assert not any("cookie" in request.lower() for request in server.requests)

    async def test_dead_address_falls_back_to_the_next(self) -> None:
        async with scripted_server(OK) as server:
            resolver = FixedResolver(gw_example_com=[[OTHER_ADDRESS, ADDRESS]])
            async with provider_client(server, resolver=resolver) as client:
                assert (await client.open(post())).status == 200

    async def test_silent_handshake_ends_at_the_connect_timeout(self) -> None:
        timeouts = Timeouts(connect_seconds=0.2, upload_seconds=5, idle_seconds=5)
        async with scripted_server(never_respond, tls=False) as server:
            async with provider_client(server, timeouts=timeouts) as client:
                request = post()
                with pytest.raises(ProviderTimeout):
                    await client.open(request)
                assert not request.was_sent
            await until(server.open_sockets, lambda count: count == 0)
