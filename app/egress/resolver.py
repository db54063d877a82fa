"""DNS lookups, and the guard that validates every response."""

import asyncio
import logging
from collections.abc import Collection, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Final, Protocol, TypeAlias

import dns.asyncresolver
import dns.exception
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.resolver

from app.core.url_errors import DnsUnavailable, UrlReason, UrlRefused
from app.egress.dns_sockets import BoundedBackend
from app.provider_url.address_policy import NAT64_PREFIX_LENGTHS, AddressClass, classify, parse_address
from app.provider_url.name_server import parse_name_server

Address: TypeAlias = IPv4Address | IPv6Address

_MAX_ADDRESSES: Final = 64
_logger = logging.getLogger(__name__)


class Resolver(Protocol):
    """Resolves host names."""

    async def addresses(self, host: str) -> Sequence[str]:
        """Return all IPv4 and IPv6 addresses of the absolute name `host`; empty if it has no addresses.

        Raises:
            DnsUnavailable: the lookup failed, or the response exceeds the size limit.
        """


class DnsResolver:
    """Queries name servers only: it uses no hosts file, no search domains and no cache.

    Unlike `getaddrinfo` it can be cancelled, keeps its deadlines, and does not accept a number as a name.
    A response longer than `dns_sockets.MAX_RESPONSE_BYTES` counts as a failed lookup of that address family.

    Args:
        nameservers: `address`, `address:port` or `[address]:port`; if empty, the name servers of the system.
        timeout_seconds: the limit for the whole lookup.
        attempt_seconds: the limit for one query to one server.
    """

    def __init__(
        self, nameservers: Sequence[str] = (), *, timeout_seconds: float = 4.0, attempt_seconds: float = 1.5
    ) -> None:
        self._stub = _stub_of(nameservers)
        self._sockets = BoundedBackend()
        self._stub.timeout = attempt_seconds
        self._stub.lifetime = timeout_seconds

    async def addresses(self, host: str) -> Sequence[str]:
        name = dns.name.from_text(f"{host}.")
        ipv4, ipv6 = await asyncio.gather(
            self._query(name, dns.rdatatype.A), self._query(name, dns.rdatatype.AAAA)
        )
        found = (ipv4 or ()) + (ipv6 or ())
        # One family may fail if the other has addresses. "No addresses" needs a response for both.
        if not found and (ipv4 is None or ipv6 is None):
            raise DnsUnavailable
        return found

    async def _query(self, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> tuple[str, ...] | None:
        """Return the addresses of one family, or `None` if the lookup failed."""
        try:
            response = await self._stub.resolve(
                name, kind, search=False, raise_on_no_answer=False, backend=self._sockets
            )
        except dns.resolver.NXDOMAIN:
            return ()
        except (dns.exception.DNSException, OSError):
            return None
        return tuple(record.address for record in response)


class AddressGuard:
    """Accepts a host only if all of its addresses are public.

    Args:
        resolver: queried at every call; results are not cached.
        allowed_hosts: hosts that the operator exempts from the address policy, but not from any other rule.
        nat64: prefixes of the operator's own NAT64; see `classify`.
    """

    def __init__(
        self,
        resolver: Resolver,
        *,
        allowed_hosts: Collection[str] = (),
        nat64: Collection[IPv6Network] = (),
    ) -> None:
        if any(prefix.prefixlen not in NAT64_PREFIX_LENGTHS for prefix in nat64):
            raise ValueError("a NAT64 prefix must be 32, 40, 48, 56, 64 or 96 bits long")
        self._resolver = resolver
        self._allowed_hosts = frozenset(host.lower().removesuffix(".") for host in allowed_hosts)
        self._nat64 = tuple(nat64)

    async def resolve_and_validate(self, host: str, *, field: str = "base_url") -> tuple[Address, ...]:
        """Resolve `host` and return its addresses without duplicates, in the resolver's order.

        One forbidden address is enough to refuse the host. A mix of addresses is an attempt to pass the validation
        with one address and to get a connection to another.

        Raises:
            UrlRefused: dns_no_records or dns_private_address.
            DnsUnavailable: the lookup failed, or there are more than 64 addresses.
        """
        response = await self._resolver.addresses(host)
        if len(response) > _MAX_ADDRESSES:
            _logger.info("too many addresses: %s has %d", host, len(response))
            raise DnsUnavailable
        if not response:
            raise UrlRefused(UrlReason.DNS_NO_RECORDS, field=field)
        is_exempt = host in self._allowed_hosts
        validated: dict[Address, None] = {}
        for text in response:
            address = parse_address(text)
            address_class = classify(text, nat64=self._nat64)
            if address is None or not (is_exempt or address_class is AddressClass.PUBLIC):
                _logger.info("address refused: %s is %s", host, address_class.value)
                raise UrlRefused(UrlReason.DNS_PRIVATE_ADDRESS, field=field)
            validated[address] = None
        return tuple(validated)


def _stub_of(nameservers: Sequence[str]) -> dns.asyncresolver.Resolver:
    if nameservers:
        stub = dns.asyncresolver.Resolver(configure=False)
        stub.nameservers = [_nameserver(text) for text in nameservers]
        return stub
    try:
        return dns.asyncresolver.Resolver()
    except dns.resolver.NoResolverConfiguration:
        # The C library does the same without /etc/resolv.conf.
        return _stub_of(["127.0.0.1"])


def _nameserver(text: str) -> dns.nameserver.Do53Nameserver:
    server = parse_name_server(text)
    if server is None:
        raise ValueError(
            "a name server must be an IP address, with an optional port: 192.0.2.1:53, [2001:db8::1]:53"
        )
    return dns.nameserver.Do53Nameserver(server.address, server.port)
