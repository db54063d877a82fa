"""The pinned transport: which addresses it connects to, and how it verifies the identity of the host."""

import ssl
from datetime import UTC, datetime, timedelta

import httpx
import pytest
import trustme

from app.core.url_errors import UrlReason
from app.egress.exceptions import DestinationRefused, NameLookupFailed, NameNotFound
from app.egress.transport import EgressLimits
from tests.support.network.scripted_servers import (
    ADDRESS,
    AUTHORITY,
    HOST,
    OTHER_ADDRESS,
    URL,
    FixedResolver,
    LoopbackBackend,
    certificate,
    client,
    client_of,
    http_response,
    never_respond,
    respond_always,
    scripted_server,
)
from tests.support.polling import until

OK = respond_always(http_response())
OK_AND_CLOSE = respond_always(http_response(b"{}", "Connection: close"))


def has_cause(error: BaseException, kind: type[BaseException]) -> bool:
    link: BaseException | None = error
    while link is not None and not isinstance(link, kind):
        link = link.__cause__ or link.__context__
    return link is not None


class TestAddresses:
    async def test_host_that_becomes_private_is_not_connected_again(self) -> None:
        resolver = FixedResolver(gw_example_com=[[ADDRESS], ["127.0.0.1"]])
        async with scripted_server(OK_AND_CLOSE) as server:
            backend = LoopbackBackend({ADDRESS: server.port, "127.0.0.1": server.port})
            async with client(resolver, backend) as http:
                first = await http.get(URL)
                with pytest.raises(DestinationRefused) as caught:
                    await http.get(URL)

        assert first.status_code == 200
        assert caught.value.reason is UrlReason.DNS_PRIVATE_ADDRESS
        assert (resolver.queries, backend.connected_hosts) == ([HOST, HOST], [ADDRESS])

    async def test_open_connection_is_reused_without_a_lookup(self) -> None:
        resolver = FixedResolver(gw_example_com=[[ADDRESS], ["127.0.0.1"]])
        async with (
            scripted_server(OK) as server,
            client(resolver, LoopbackBackend({ADDRESS: server.port})) as http,
        ):
            await http.get(URL)
            await http.get(URL)

        assert (server.connections, len(server.requests), resolver.queries) == (1, 2, [HOST])

    async def test_closed_connection_is_not_reused(self) -> None:
        async with scripted_server(OK) as server, client_of(server) as http:
            await http.get(URL)
            await server.close_connections()
            await until(server.open_sockets, lambda count: count == 0)

            assert (await http.get(URL)).status_code == 200

        assert server.connections == 2

    @pytest.mark.parametrize(
        "addresses",
        [["127.0.0.1"], [ADDRESS, "10.0.0.5"], ["10.0.0.5", ADDRESS], [ADDRESS, "fd00::1"], ["::1"]],
    )
    async def test_host_with_a_private_address_is_not_connected(self, addresses: list[str]) -> None:
        backend = LoopbackBackend({})
        async with client(FixedResolver(gw_example_com=[addresses]), backend) as http:
            with pytest.raises(DestinationRefused):
                await http.get(URL)

        assert backend.connected_hosts == []

    async def test_tries_the_next_address_if_one_refuses(self) -> None:
        async with scripted_server(OK) as server:
            backend = LoopbackBackend({OTHER_ADDRESS: server.port})
            async with client(FixedResolver(gw_example_com=[[ADDRESS, OTHER_ADDRESS]]), backend) as http:
                response = await http.get(URL)

        assert response.status_code == 200
        assert backend.connected_hosts == [ADDRESS, OTHER_ADDRESS]

    async def test_tries_the_next_address_if_one_drops_packets(self) -> None:
        async with scripted_server(OK) as server:
            backend = LoopbackBackend({ADDRESS: None, OTHER_ADDRESS: server.port})
            resolver = FixedResolver(gw_example_com=[[ADDRESS, OTHER_ADDRESS]])
            async with client(resolver, backend, limits=EgressLimits(attempt_seconds=0.02)) as http:
                response = await http.get(URL)

        assert response.status_code == 200

    async def test_alternates_between_families_up_to_a_limit(self) -> None:
        ipv6 = [f"2606:4700::{number}" for number in range(1, 9)]
        backend = LoopbackBackend({})
        async with client(FixedResolver(gw_example_com=[[*ipv6, ADDRESS, OTHER_ADDRESS]]), backend) as http:
            with pytest.raises(httpx.ConnectError):
                await http.get(URL)

        assert backend.connected_hosts == [ADDRESS, ipv6[0], OTHER_ADDRESS, *ipv6[1:4]]

    async def test_all_attempts_share_one_deadline(self) -> None:
        backend = LoopbackBackend({ADDRESS: None, OTHER_ADDRESS: None})
        resolver = FixedResolver(gw_example_com=[[ADDRESS, OTHER_ADDRESS]])
        async with client(resolver, backend, limits=EgressLimits(connect_seconds=0.05)) as http:
            with pytest.raises(httpx.ConnectTimeout):
                await http.get(URL)

    async def test_name_without_addresses_has_its_own_exception(self) -> None:
        async with client(FixedResolver(gw_example_com=[[]]), LoopbackBackend({})) as http:
            with pytest.raises(NameNotFound):
                await http.get(URL)

    async def test_failed_lookup_has_its_own_exception(self) -> None:
        async with client(FixedResolver(gw_example_com=[None]), LoopbackBackend({})) as http:
            with pytest.raises(NameLookupFailed):
                await http.get(URL)


class TestIdentity:
    async def test_server_name_and_host_header_contain_the_name(self) -> None:
        async with scripted_server(OK) as server, client_of(server) as http:
            await http.get(URL)

        assert server.server_names == [HOST]
        assert f"Host: {HOST}\r\n" in server.requests[0]

    async def test_caller_cannot_set_another_host(self) -> None:
        async with scripted_server(OK) as server, client_of(server) as http:
            await http.get(
                URL, headers={"Host": "evil.example.com"}, extensions={"sni_hostname": "evil.example.com"}
            )

        assert server.server_names == [HOST]
        assert "evil" not in server.requests[0]

    async def test_certificate_of_another_name_is_refused(self) -> None:
        async with (
            scripted_server(OK, certificate("evil.example.com", ADDRESS)) as server,
            client_of(server) as http,
        ):
            with pytest.raises(httpx.ConnectError) as caught:
                await http.get(URL)

        assert has_cause(caught.value, ssl.SSLCertVerificationError)
        assert server.requests == []

    async def test_certificate_of_an_unknown_authority_is_refused(self) -> None:
        untrusted = certificate(HOST, authority=trustme.CA())
        async with scripted_server(OK, untrusted) as server, client_of(server) as http:
            with pytest.raises(httpx.ConnectError) as caught:
                await http.get(URL)

        assert has_cause(caught.value, ssl.SSLCertVerificationError)

    async def test_expired_certificate_is_refused(self) -> None:
        expired = AUTHORITY.issue_cert(HOST, not_after=datetime.now(UTC) - timedelta(days=1))
        async with scripted_server(OK, expired) as server, client_of(server) as http:
            with pytest.raises(httpx.ConnectError) as caught:
                await http.get(URL)

        assert has_cause(caught.value, ssl.SSLCertVerificationError)

    async def test_hosts_at_one_address_do_not_share_connections(self) -> None:
        both = certificate(HOST, "other.example.com")
        resolver = FixedResolver(gw_example_com=[[ADDRESS]], other_example_com=[[ADDRESS]])
        async with (
            scripted_server(OK, both) as server,
            client(resolver, LoopbackBackend({ADDRESS: server.port})) as http,
        ):
            await http.get(URL)
            await http.get("https://other.example.com/v1/messages")

        assert server.server_names == [HOST, "other.example.com"]

    async def test_stalled_handshake_is_a_timeout(self) -> None:
        limits = EgressLimits(connect_seconds=0.05)
        async with (
            scripted_server(never_respond, tls=False) as server,
            client_of(server, limits=limits) as http,
        ):
            with pytest.raises(httpx.ConnectTimeout):
                await http.get(URL)
