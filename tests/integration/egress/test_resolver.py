"""The DNS resolver against a DNS server on loopback, and the guard that validates addresses."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

import dns.resolver
import pytest
from dns.rcode import NOERROR, NXDOMAIN, REFUSED, SERVFAIL

from app.core.url_errors import DnsUnavailable, UrlReason, UrlRefused
from app.egress.resolver import AddressGuard, DnsResolver
from app.provider_url.address_policy import NAT64_WELL_KNOWN
from tests.support.network.dns_server import NameServer, Script, name_server

HOST = "gw.example.com"
A = f"{HOST}. 60 IN A 160.79.104.10"
AAAA = f"{HOST}. 60 IN AAAA 2606:4700::6812:6c0"


def by_type(**scripts: object) -> Script:
    return lambda _name, kind: scripts[kind]  # type: ignore[return-value]  # each test defines its own script


def many(count: int, record: str = A) -> list[str]:
    """Return `count` records with different addresses."""
    start, _, first = record.rpartition(" ")
    return [f"{start} {ip_address(first) + number}" for number in range(count)]


def resolver(server: NameServer) -> DnsResolver:
    """A resolver that waits for the response of this server, even if the machine is busy."""
    return DnsResolver([f"127.0.0.1:{server.port}"], timeout_seconds=30, attempt_seconds=30)


def impatient_resolver(server: NameServer, *, timeout_seconds: float = 0.3) -> DnsResolver:
    """A resolver for failures. It repeats the query until the time is over."""
    return DnsResolver(
        [f"127.0.0.1:{server.port}"], timeout_seconds=timeout_seconds, attempt_seconds=timeout_seconds / 3
    )


class TestDnsResolver:
    async def test_returns_addresses_of_both_families(self) -> None:
        async with name_server(by_type(A=(NOERROR, [A]), AAAA=(NOERROR, [AAAA]))) as server:
            found = await resolver(server).addresses(HOST)

        assert found == ("160.79.104.10", "2606:4700::6812:6c0")

    async def test_queries_the_absolute_name_only(self) -> None:
        async with name_server(by_type(A=(NXDOMAIN, []), AAAA=(NXDOMAIN, []))) as server:
            found = await resolver(server).addresses(HOST)

        assert found == ()
        assert sorted(server.queries) == [(f"{HOST}.", "A"), (f"{HOST}.", "AAAA")]

    async def test_follows_aliases(self) -> None:
        alias = [f"{HOST}. 60 IN CNAME edge.example.net.", "edge.example.net. 60 IN A 160.79.104.10"]
        async with name_server(by_type(A=(NOERROR, alias), AAAA=(NOERROR, alias[:1]))) as server:
            found = await resolver(server).addresses(HOST)

        assert found == ("160.79.104.10",)

    async def test_returns_nothing_if_both_families_are_empty(self) -> None:
        async with name_server(by_type(A=(NOERROR, []), AAAA=(NOERROR, []))) as server:
            assert await resolver(server).addresses(HOST) == ()

    @pytest.mark.parametrize("failure", [(SERVFAIL, []), (REFUSED, []), None])
    async def test_one_failed_family_does_not_affect_the_other(self, failure: object) -> None:
        async with name_server(by_type(A=(NOERROR, [A]), AAAA=failure)) as server:
            assert await impatient_resolver(server, timeout_seconds=1.5).addresses(HOST) == ("160.79.104.10",)

    @pytest.mark.parametrize("failure", [(SERVFAIL, []), (REFUSED, []), None])
    async def test_is_unavailable_if_both_families_fail(self, failure: object) -> None:
        async with name_server(by_type(A=failure, AAAA=failure)) as server:
            with pytest.raises(DnsUnavailable):
                await impatient_resolver(server).addresses(HOST)

    async def test_is_unavailable_if_one_family_fails_and_the_other_is_empty(self) -> None:
        async with name_server(by_type(A=(SERVFAIL, []), AAAA=(NOERROR, []))) as server:
            with pytest.raises(DnsUnavailable):
                await impatient_resolver(server).addresses(HOST)

    async def test_is_unavailable_without_a_server(self) -> None:
        async with name_server(by_type()) as server:
            pass

        with pytest.raises(DnsUnavailable):
            await impatient_resolver(server).addresses(HOST)

    async def test_queries_the_next_server_if_one_is_silent(self) -> None:
        async with (
            name_server(by_type(A=None, AAAA=None)) as silent,
            name_server(by_type(A=(NOERROR, [A]), AAAA=(NOERROR, []))) as server,
        ):
            servers = [f"127.0.0.1:{silent.port}", f"127.0.0.1:{server.port}"]
            found = await DnsResolver(servers, timeout_seconds=30, attempt_seconds=0.2).addresses(HOST)

        assert found == ("160.79.104.10",)

    async def test_repeats_a_truncated_query_over_tcp(self) -> None:
        async with name_server(by_type(A=(NOERROR, many(40)), AAAA=(NOERROR, []))) as server:
            found = await resolver(server).addresses(HOST)

        assert len(found) == 40
        assert server.queries.count((f"{HOST}.", "A")) == 2

    @pytest.mark.parametrize("datagram_bytes", [512, 65535])
    async def test_is_unavailable_if_the_response_is_too_long(self, datagram_bytes: int) -> None:
        script = by_type(A=(NOERROR, many(100)), AAAA=(NOERROR, []))
        async with name_server(script, datagram_bytes=datagram_bytes) as server:
            with pytest.raises(DnsUnavailable):
                await impatient_resolver(server).addresses(HOST)

    async def test_too_long_response_of_one_family_does_not_affect_the_other(self) -> None:
        async with name_server(by_type(A=(NOERROR, [A]), AAAA=(NOERROR, many(100, AAAA)))) as server:
            assert await impatient_resolver(server, timeout_seconds=1.5).addresses(HOST) == ("160.79.104.10",)

    async def test_does_not_read_the_hosts_file(self) -> None:
        async with name_server(by_type(A=(NXDOMAIN, []), AAAA=(NXDOMAIN, []))) as server:
            assert await resolver(server).addresses("localhost") == ()

    @pytest.mark.parametrize("text", ["192.0.2.1", "192.0.2.1:5353", "2001:db8::1", "[2001:db8::1]:5353"])
    def test_accepts_addresses_of_name_servers(self, text: str) -> None:
        DnsResolver([text])

    def test_uses_the_name_servers_of_the_system_by_default(self) -> None:
        DnsResolver()

    def test_uses_localhost_if_the_system_has_no_name_servers(self, monkeypatch: pytest.MonkeyPatch) -> None:
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
    def test_refuses_invalid_name_servers(self, text: str) -> None:
        with pytest.raises(ValueError, match="a name server must be an IP address"):
            DnsResolver([text])


class StaticResolver:
    """A resolver that always returns the same addresses."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses

    async def addresses(self, host: str) -> Sequence[str]:  # noqa: ARG002  # the same for all names
        return self._addresses


class TestAddressGuard:
    async def test_returns_addresses_in_order_without_duplicates(self) -> None:
        guard = AddressGuard(
            StaticResolver("160.79.104.10", "2606:4700::A", "2606:4700:0::a", "160.79.104.10")
        )

        assert await guard.resolve_and_validate(HOST) == (
            IPv4Address("160.79.104.10"),
            IPv6Address("2606:4700::a"),
        )

    @pytest.mark.parametrize(
        "addresses",
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
    async def test_one_forbidden_address_refuses_the_host(self, addresses: tuple[str, ...]) -> None:
        with pytest.raises(UrlRefused) as caught:
            await AddressGuard(StaticResolver(*addresses)).resolve_and_validate(HOST)

        assert caught.value.reason is UrlReason.DNS_PRIVATE_ADDRESS

    async def test_limits_the_number_of_addresses(self) -> None:
        addresses = [record.rpartition(" ")[2] for record in many(65)]

        assert len(await AddressGuard(StaticResolver(*addresses[:64])).resolve_and_validate(HOST)) == 64
        with pytest.raises(DnsUnavailable):
            await AddressGuard(StaticResolver(*addresses)).resolve_and_validate(HOST)

    async def test_name_without_addresses_has_its_own_reason(self) -> None:
        with pytest.raises(UrlRefused) as caught:
            await AddressGuard(StaticResolver()).resolve_and_validate(HOST, field="url")

        assert caught.value.reason is UrlReason.DNS_NO_RECORDS
        assert caught.value.errors[0].field == "url"

    async def test_allowed_host_may_have_a_private_address(self) -> None:
        guard = AddressGuard(StaticResolver("10.0.0.5"), allowed_hosts=["GW.example.com."])

        assert await guard.resolve_and_validate(HOST) == (IPv4Address("10.0.0.5"),)
        with pytest.raises(UrlRefused):
            await guard.resolve_and_validate("other.example.com")

    @pytest.mark.parametrize("addresses", [(), ("10.0.0.05",), ("fd00::1%eth0",)])
    async def test_allowed_host_is_not_exempt_from_other_rules(self, addresses: tuple[str, ...]) -> None:
        with pytest.raises(UrlRefused):
            await AddressGuard(StaticResolver(*addresses), allowed_hosts=[HOST]).resolve_and_validate(HOST)

    async def test_validates_the_ipv4_address_inside_nat64(self) -> None:
        public = AddressGuard(StaticResolver("64:ff9b::8.8.8.8"), nat64=[NAT64_WELL_KNOWN])
        private = AddressGuard(StaticResolver("64:ff9b::10.0.0.5"), nat64=[NAT64_WELL_KNOWN])

        assert await public.resolve_and_validate(HOST) == (IPv6Address("64:ff9b::808:808"),)
        with pytest.raises(UrlRefused):
            await private.resolve_and_validate(HOST)

    def test_refuses_nat64_prefixes_of_invalid_length(self) -> None:
        with pytest.raises(ValueError, match="NAT64"):
            AddressGuard(StaticResolver(), nat64=[IPv6Network("64:ff9b::/95")])
