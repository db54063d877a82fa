"""Connecting: who is dialled, and whether it is who it says it is."""

import ssl
from datetime import UTC, datetime, timedelta

import httpx
import pytest
import trustme

from app.core.url_errors import UrlReason
from app.egress.exceptions import DestinationRefused, NameNotFound, NameUnavailable
from app.egress.transport import EgressLimits
from tests.integration.egress.far_side import (
    ADDRESS,
    AUTHORITY,
    HOST,
    OTHER_ADDRESS,
    URL,
    Detour,
    FixedResolver,
    always,
    answer,
    certificate,
    client,
    client_of,
    far_server,
    silence,
)
from tests.waiting import until

OK = always(answer())
OK_AND_CLOSE = always(answer(b"{}", "Connection: close"))


def has_cause(error: BaseException, kind: type[BaseException]) -> bool:
    link: BaseException | None = error
    while link is not None and not isinstance(link, kind):
        link = link.__cause__ or link.__context__
    return link is not None


class TestAddresses:
    async def test_a_name_that_turns_private_between_connections_is_not_dialled_again(self) -> None:
        resolver = FixedResolver(gw_example_com=[[ADDRESS], ["127.0.0.1"]])
        async with far_server(OK_AND_CLOSE) as server:
            detour = Detour({ADDRESS: server.port, "127.0.0.1": server.port})
            async with client(resolver, detour) as http:
                first = await http.get(URL)
                with pytest.raises(DestinationRefused) as caught:
                    await http.get(URL)

        assert first.status_code == 200
        assert caught.value.reason is UrlReason.DNS_PRIVATE_ADDRESS
        assert (resolver.asked, detour.dialled) == ([HOST, HOST], [ADDRESS])

    async def test_an_open_connection_is_used_again_without_a_new_look_up(self) -> None:
        resolver = FixedResolver(gw_example_com=[[ADDRESS], ["127.0.0.1"]])
        async with far_server(OK) as server, client(resolver, Detour({ADDRESS: server.port})) as http:
            await http.get(URL)
            await http.get(URL)

        assert (server.connections, len(server.requests), resolver.asked) == (1, 2, [HOST])

    async def test_an_open_connection_that_has_ended_is_not_used_again(self) -> None:
        async with far_server(OK) as server, client_of(server) as http:
            await http.get(URL)
            await server.hang_up()
            await until(server.open_sockets, lambda count: count == 0)

            assert (await http.get(URL)).status_code == 200

        assert server.connections == 2

    @pytest.mark.parametrize(
        "addresses",
        [["127.0.0.1"], [ADDRESS, "10.0.0.5"], ["10.0.0.5", ADDRESS], [ADDRESS, "fd00::1"], ["::1"]],
    )
    async def test_an_answer_with_a_private_address_is_not_dialled_at_all(self, addresses: list[str]) -> None:
        detour = Detour({})
        async with client(FixedResolver(gw_example_com=[addresses]), detour) as http:
            with pytest.raises(DestinationRefused):
                await http.get(URL)

        assert detour.dialled == []

    async def test_the_next_address_is_dialled_if_one_refuses(self) -> None:
        async with far_server(OK) as server:
            detour = Detour({OTHER_ADDRESS: server.port})
            async with client(FixedResolver(gw_example_com=[[ADDRESS, OTHER_ADDRESS]]), detour) as http:
                response = await http.get(URL)

        assert response.status_code == 200
        assert detour.dialled == [ADDRESS, OTHER_ADDRESS]

    async def test_the_next_address_is_dialled_if_one_swallows_packets(self) -> None:
        async with far_server(OK) as server:
            detour = Detour({ADDRESS: None, OTHER_ADDRESS: server.port})
            resolver = FixedResolver(gw_example_com=[[ADDRESS, OTHER_ADDRESS]])
            async with client(resolver, detour, limits=EgressLimits(attempt_seconds=0.02)) as http:
                response = await http.get(URL)

        assert response.status_code == 200

    async def test_families_are_dialled_by_turns_and_not_without_end(self) -> None:
        ipv6 = [f"2606:4700::{number}" for number in range(1, 9)]
        detour = Detour({})
        async with client(FixedResolver(gw_example_com=[[*ipv6, ADDRESS, OTHER_ADDRESS]]), detour) as http:
            with pytest.raises(httpx.ConnectError):
                await http.get(URL)

        assert detour.dialled == [ADDRESS, ipv6[0], OTHER_ADDRESS, *ipv6[1:4]]

    async def test_all_attempts_share_one_deadline(self) -> None:
        detour = Detour({ADDRESS: None, OTHER_ADDRESS: None})
        resolver = FixedResolver(gw_example_com=[[ADDRESS, OTHER_ADDRESS]])
        async with client(resolver, detour, limits=EgressLimits(connect_seconds=0.05)) as http:
            with pytest.raises(httpx.ConnectTimeout):
                await http.get(URL)

    async def test_a_name_without_addresses_is_told_apart(self) -> None:
        async with client(FixedResolver(gw_example_com=[[]]), Detour({})) as http:
            with pytest.raises(NameNotFound):
                await http.get(URL)

    async def test_a_resolver_that_fails_is_told_apart(self) -> None:
        async with client(FixedResolver(gw_example_com=[None]), Detour({})) as http:
            with pytest.raises(NameUnavailable):
                await http.get(URL)


class TestIdentity:
    async def test_server_name_and_host_header_are_the_name(self) -> None:
        async with far_server(OK) as server, client_of(server) as http:
            await http.get(URL)

        assert server.server_names == [HOST]
        assert f"Host: {HOST}\r\n" in server.requests[0]

    async def test_the_caller_cannot_name_another_host(self) -> None:
        async with far_server(OK) as server, client_of(server) as http:
            await http.get(
                URL, headers={"Host": "evil.example.com"}, extensions={"sni_hostname": "evil.example.com"}
            )

        assert server.server_names == [HOST]
        assert "evil" not in server.requests[0]

    async def test_a_certificate_of_another_name_is_refused(self) -> None:
        async with (
            far_server(OK, certificate("evil.example.com", ADDRESS)) as server,
            client_of(server) as http,
        ):
            with pytest.raises(httpx.ConnectError) as caught:
                await http.get(URL)

        assert has_cause(caught.value, ssl.SSLCertVerificationError)
        assert server.requests == []

    async def test_a_certificate_of_an_unknown_authority_is_refused(self) -> None:
        stranger = certificate(HOST, authority=trustme.CA())
        async with far_server(OK, stranger) as server, client_of(server) as http:
            with pytest.raises(httpx.ConnectError) as caught:
                await http.get(URL)

        assert has_cause(caught.value, ssl.SSLCertVerificationError)

    async def test_an_expired_certificate_is_refused(self) -> None:
        expired = AUTHORITY.issue_cert(HOST, not_after=datetime.now(UTC) - timedelta(days=1))
        async with far_server(OK, expired) as server, client_of(server) as http:
            with pytest.raises(httpx.ConnectError) as caught:
                await http.get(URL)

        assert has_cause(caught.value, ssl.SSLCertVerificationError)

    async def test_two_names_at_one_address_share_no_connection(self) -> None:
        both = certificate(HOST, "other.example.com")
        resolver = FixedResolver(gw_example_com=[[ADDRESS]], other_example_com=[[ADDRESS]])
        async with far_server(OK, both) as server, client(resolver, Detour({ADDRESS: server.port})) as http:
            await http.get(URL)
            await http.get("https://other.example.com/v1/messages")

        assert server.server_names == [HOST, "other.example.com"]

    async def test_a_handshake_that_never_ends_is_a_timeout(self) -> None:
        limits = EgressLimits(connect_seconds=0.05)
        async with far_server(silence, tls=False) as server, client_of(server, limits=limits) as http:
            with pytest.raises(httpx.ConnectTimeout):
                await http.get(URL)
