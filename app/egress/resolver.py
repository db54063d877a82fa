"""Names to addresses: the resolver port, its DNS implementation, and the guard that vets every answer."""

import asyncio
import logging
import re
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
from app.provider_url.address_policy import NAT64_PREFIX_LENGTHS, AddressVerdict, classify, parse_address

Address: TypeAlias = IPv4Address | IPv6Address

_DNS_PORT: Final = 53
_MAX_PORT: Final = 65535
_MAX_ADDRESSES: Final = 64
_ADDRESS_AND_PORT = re.compile(r"(?:\[(?P<ipv6>[^\]]+)\]|(?P<ipv4>[^:]+)):(?P<port>[0-9]{1,5})")
_logger = logging.getLogger(__name__)


class Resolver(Protocol):
    """Whoever knows the addresses of a name."""

    async def addresses(self, host: str) -> Sequence[str]:
        """All addresses of the absolute name `host`, of both families; empty if it has none.

        Raises:
            DnsUnavailable: it could not be found out, or the answer is longer than we read.
        """


class DnsResolver:
    """Asks name servers, and nothing else: no hosts file, no search domains, no cache.

    Unlike `getaddrinfo` it can be cancelled, keeps its deadlines, and takes no number for a name.
    A family whose answer is longer than `MAX_ANSWER_BYTES` counts as one that could not be found out.

    Args:
        nameservers: `address`, `address:port` or `[address]:port`; none: those of the system.
        timeout_seconds: for the whole look-up.
        attempt_seconds: for one question to one server.
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
            self._ask(name, dns.rdatatype.A), self._ask(name, dns.rdatatype.AAAA)
        )
        found = (ipv4 or ()) + (ipv6 or ())
        # One family may fail while the other answers. That nothing is there takes the word of both.
        if not found and (ipv4 is None or ipv6 is None):
            raise DnsUnavailable
        return found

    async def _ask(self, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> tuple[str, ...] | None:
        """Addresses of one family, or None if no server could say."""
        try:
            answer = await self._stub.resolve(
                name, kind, search=False, raise_on_no_answer=False, backend=self._sockets
            )
        except dns.resolver.NXDOMAIN:
            return ()
        except (dns.exception.DNSException, OSError):
            return None
        return tuple(record.address for record in answer)


class AddressGuard:
    """Lets a name through only if all of its addresses are public.

    Args:
        resolver: asked at every call; nothing is remembered.
        allowed_hosts: names that the operator exempts from the address rule, and from nothing else.
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
            raise ValueError("a NAT64 prefix is 32, 40, 48, 56, 64 or 96 bits long")
        self._resolver = resolver
        self._allowed_hosts = frozenset(host.lower().removesuffix(".") for host in allowed_hosts)
        self._nat64 = tuple(nat64)

    async def vet(self, host: str, *, field: str = "base_url") -> tuple[Address, ...]:
        """The addresses that may be dialled for `host`, each once, in the resolver's order.

        One bad address spoils the answer: whoever mixes them hopes that we check one and dial another.

        Raises:
            UrlRefused: dns_no_records or dns_private_address.
            DnsUnavailable: also for more addresses than anybody needs; each takes its time to judge.
        """
        answer = await self._resolver.addresses(host)
        if len(answer) > _MAX_ADDRESSES:
            _logger.info("addresses not judged: %s has %d", host, len(answer))
            raise DnsUnavailable
        if not answer:
            raise UrlRefused(UrlReason.DNS_NO_RECORDS, field=field)
        is_exempt = host in self._allowed_hosts
        vetted: dict[Address, None] = {}
        for text in answer:
            address = parse_address(text)
            verdict = classify(text, nat64=self._nat64)
            if address is None or not (is_exempt or verdict is AddressVerdict.PUBLIC):
                _logger.info("address refused: %s is %s", host, verdict.value)
                raise UrlRefused(UrlReason.DNS_PRIVATE_ADDRESS, field=field)
            vetted[address] = None
        return tuple(vetted)


def _stub_of(nameservers: Sequence[str]) -> dns.asyncresolver.Resolver:
    if nameservers:
        stub = dns.asyncresolver.Resolver(configure=False)
        stub.nameservers = [_nameserver(text) for text in nameservers]
        return stub
    try:
        return dns.asyncresolver.Resolver()
    except dns.resolver.NoResolverConfiguration:
        # What the C library does without /etc/resolv.conf.
        return _stub_of(["127.0.0.1"])


def _nameserver(text: str) -> dns.nameserver.Do53Nameserver:
    host, port = text, str(_DNS_PORT)
    if parse_address(text) is None and (parts := _ADDRESS_AND_PORT.fullmatch(text)):
        host, port = parts["ipv6"] or parts["ipv4"], parts["port"]
    if parse_address(host) is None or not 0 < int(port) <= _MAX_PORT:
        raise ValueError("a name server is an IP address, or one with a port: 192.0.2.1:53, [2001:db8::1]:53")
    return dns.nameserver.Do53Nameserver(host, int(port))
