"""The DNS resolver against a name server on loopback, and the guard over it."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

import dns.resolver
import pytest
from dns.rcode import NOERROR, NXDOMAIN, REFUSED, SERVFAIL

from app.core.url_errors import DnsUnavailable, UrlReason, UrlRefused
from app.egress.resolver import AddressGuard, DnsResolver
from app.provider_url.address_policy import NAT64_WELL_KNOWN
from tests.integration.egress.dns_server import NameServer, Script, name_server

HOST = "gw.example.com"
A = f"{HOST}. 60 IN A 160.79.104.10"
AAAA = f"{HOST}. 60 IN AAAA 2606:4700::6812:6c0"


def by_type(**scripts: object) -> Script:
    return lambda _name, kind: scripts[kind]  # type: ignore[return-value]  # each test spells its own script


def many(count: int, record: str = A) -> list[str]:
    """So many records, each with an address of its own."""
    start, _, first = record.rpartition(" ")
    return [f"{start} {ip_address(first) + number}" for number in range(count)]


def resolver(server: NameServer) -> DnsResolver:
    return DnsResolver([f"127.0.0.1:{server.port}"], timeout_seconds=0.3, attempt_seconds=0.1)


class TestDnsResolver:
    async def test_gives_the_addresses_of_both_families(self) -> None:
        async with name_server(by_type(A=(NOERROR, [A]), AAAA=(NOERROR, [AAAA]))) as server:
            found = await resolver(server).addresses(HOST)

        assert found == ("160.79.104.10", "2606:4700::6812:6c0")

    async def test_asks_for_the_absolute_name_only(self) -> None:
        async with name_server(by_type(A=(NXDOMAIN, []), AAAA=(NXDOMAIN, []))) as server:
            found = await resolver(server).addresses(HOST)

        assert found == ()
        assert sorted(server.questions) == [(f"{HOST}.", "A"), (f"{HOST}.", "AAAA")]

    async def test_follows_aliases(self) -> None:
        alias = [f"{HOST}. 60 IN CNAME edge.example.net.", "edge.example.net. 60 IN A 160.79.104.10"]
        async with name_server(by_type(A=(NOERROR, alias), AAAA=(NOERROR, alias[:1]))) as server:
            found = await resolver(server).addresses(HOST)

        assert found == ("160.79.104.10",)

    async def test_finds_nothing_where_there_is_neither_family(self) -> None:
        async with name_server(by_type(A=(NOERROR, []), AAAA=(NOERROR, []))) as server:
            assert await resolver(server).addresses(HOST) == ()

    @pytest.mark.parametrize("failure", [(SERVFAIL, []), (REFUSED, []), None])
    async def test_one_family_that_fails_does_not_spoil_the_other(self, failure: object) -> None:
        async with name_server(by_type(A=(NOERROR, [A]), AAAA=failure)) as server:
            assert await resolver(server).addresses(HOST) == ("160.79.104.10",)

    @pytest.mark.parametrize("failure", [(SERVFAIL, []), (REFUSED, []), None])
    async def test_is_unavailable_if_both_families_fail(self, failure: object) -> None:
        async with name_server(by_type(A=failure, AAAA=failure)) as server:
            with pytest.raises(DnsUnavailable):
                await resolver(server).addresses(HOST)

    async def test_is_unavailable_if_one_family_fails_and_the_other_is_empty(self) -> None:
        async with name_server(by_type(A=(SERVFAIL, []), AAAA=(NOERROR, []))) as server:
            with pytest.raises(DnsUnavailable):
                await resolver(server).addresses(HOST)

    async def test_is_unavailable_if_nobody_listens(self) -> None:
        async with name_server(by_type()) as server:
            pass

        with pytest.raises(DnsUnavailable):
            await resolver(server).addresses(HOST)

    async def test_asks_the_next_server_if_one_is_silent(self) -> None:
        async with (
            name_server(by_type(A=None, AAAA=None)) as silent,
            name_server(by_type(A=(NOERROR, [A]), AAAA=(NOERROR, []))) as server,
        ):
            servers = [f"127.0.0.1:{silent.port}", f"127.0.0.1:{server.port}"]
            found = await DnsResolver(servers, attempt_seconds=0.05).addresses(HOST)

        assert found == ("160.79.104.10",)

    async def test_asks_again_over_tcp_for_what_no_datagram_holds(self) -> None:
        async with name_server(by_type(A=(NOERROR, many(40)), AAAA=(NOERROR, []))) as server:
            found = await resolver(server).addresses(HOST)

        assert len(found) == 40
        assert server.questions.count((f"{HOST}.", "A")) == 2

    @pytest.mark.parametrize("datagram_bytes", [512, 65535])
    async def test_is_unavailable_if_the_answer_is_longer_than_any_that_is_needed(
        self, datagram_bytes: int
    ) -> None:
        script = by_type(A=(NOERROR, many(100)), AAAA=(NOERROR, []))
        async with name_server(script, datagram_bytes=datagram_bytes) as server:
            with pytest.raises(DnsUnavailable):
                await resolver(server).addresses(HOST)

    async def test_a_family_with_too_long_an_answer_does_not_spoil_the_other(self) -> None:
        async with name_server(by_type(A=(NOERROR, [A]), AAAA=(NOERROR, many(100, AAAA)))) as server:
            assert await resolver(server).addresses(HOST) == ("160.79.104.10",)

    async def test_does_not_read_the_hosts_file(self) -> None:
        async with name_server(by_type(A=(NXDOMAIN, []), AAAA=(NXDOMAIN, []))) as server:
            assert await resolver(server).addresses("localhost") == ()

    @pytest.mark.parametrize("text", ["192.0.2.1", "192.0.2.1:5353", "2001:db8::1", "[2001:db8::1]:5353"])
    def test_takes_name_servers_by_address(self, text: str) -> None:
        DnsResolver([text])

    def test_takes_the_systems_name_servers_if_it_is_given_none(self) -> None:
        DnsResolver()

    def test_takes_the_machine_itself_where_the_system_names_none(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def missing(*_arguments: object) -> None:
            raise dns.resolver.NoResolverConfiguration

        monkeypatch.setattr(dns.resolver.BaseResolver, "read_resolv_conf", missing)

        DnsResolver()

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[2001:db8::1]",
            "dns.example.com",
            "192.0.2.1:",
            "192.0.2.1:x",
            "192.0.2.1:70000",
            ":53",
            "1.1:53",
        ],
    )
    def test_refuses_name_servers_by_any_other_name(self, text: str) -> None:
        with pytest.raises(ValueError, match="a name server is an IP address"):
            DnsResolver([text])


class Answers:
    """A resolver that knows one answer."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses

    async def addresses(self, host: str) -> Sequence[str]:  # noqa: ARG002  # the same for all names
        return self._addresses


class TestAddressGuard:
    async def test_gives_every_address_once_and_in_order(self) -> None:
        guard = AddressGuard(Answers("160.79.104.10", "2606:4700::A", "2606:4700:0::a", "160.79.104.10"))

        assert await guard.vet(HOST) == (IPv4Address("160.79.104.10"), IPv6Address("2606:4700::a"))

    @pytest.mark.parametrize(
        "answer",
        [
            ("127.0.0.1",),
            ("160.79.104.10", "10.0.0.5"),
            ("10.0.0.5", "160.79.104.10"),
            ("160.79.104.10", "fd00::1"),
            ("2606:4700::a", "127.0.0.1"),
            ("160.79.104.10", "0160.79.104.10"),
            ("2606:4700::a%eth0",),
            ("64:ff9b::808:808",),
            ("",),
        ],
    )
    async def test_refuses_the_whole_answer_for_one_bad_address(self, answer: tuple[str, ...]) -> None:
        with pytest.raises(UrlRefused) as caught:
            await AddressGuard(Answers(*answer)).vet(HOST)

        assert caught.value.reason is UrlReason.DNS_PRIVATE_ADDRESS

    async def test_judges_no_more_addresses_than_anybody_needs(self) -> None:
        addresses = [record.rpartition(" ")[2] for record in many(65)]

        assert len(await AddressGuard(Answers(*addresses[:64])).vet(HOST)) == 64
        with pytest.raises(DnsUnavailable):
            await AddressGuard(Answers(*addresses)).vet(HOST)

    async def test_tells_a_name_without_addresses_apart(self) -> None:
        with pytest.raises(UrlRefused) as caught:
            await AddressGuard(Answers()).vet(HOST, field="url")

        assert caught.value.reason is UrlReason.DNS_NO_RECORDS
        assert caught.value.errors[0].field == "url"

    async def test_lets_the_operators_names_lead_inside(self) -> None:
        guard = AddressGuard(Answers("10.0.0.5"), allowed_hosts=["GW.example.com."])

        assert await guard.vet(HOST) == (IPv4Address("10.0.0.5"),)
        with pytest.raises(UrlRefused):
            await guard.vet("other.example.com")

    @pytest.mark.parametrize("answer", [(), ("10.0.0.05",), ("fd00::1%eth0",)])
    async def test_exempts_the_operators_names_from_nothing_else(self, answer: tuple[str, ...]) -> None:
        with pytest.raises(UrlRefused):
            await AddressGuard(Answers(*answer), allowed_hosts=[HOST]).vet(HOST)

    async def test_judges_what_the_operators_nat64_would_dial(self) -> None:
        public = AddressGuard(Answers("64:ff9b::8.8.8.8"), nat64=[NAT64_WELL_KNOWN])
        private = AddressGuard(Answers("64:ff9b::10.0.0.5"), nat64=[NAT64_WELL_KNOWN])

        assert await public.vet(HOST) == (IPv6Address("64:ff9b::808:808"),)
        with pytest.raises(UrlRefused):
            await private.vet(HOST)

    def test_refuses_nat64_prefixes_of_odd_length(self) -> None:
        with pytest.raises(ValueError, match="NAT64"):
            AddressGuard(Answers(), nat64=[IPv6Network("64:ff9b::/95")])
