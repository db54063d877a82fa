"""Classifies IP addresses as public or not. Pure functions; every block names its source.

`ipaddress.is_global` is not a substitute: it treats multicast, fec0::/10, 5f00::/16 and Azure's
168.63.129.16 as global, and its results changed between patch releases of Python. Here an address
is public only if no block below contains it, and an IPv6 address only inside 2000::/3.

Sources: IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890, RFC 8190), IANA IPv4
Multicast and IPv6 Address Space registries, and the RFC beside each block. Every block of the
IPv4 registry is refused, also the globally reachable ones, because no provider uses them.
"""

from collections.abc import Iterable
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address


class AddressClass(StrEnum):
    """Public, or the reason why not. The values are stable: logs and metrics contain them."""

    PUBLIC = "public"
    NOT_AN_ADDRESS = "not_an_address"
    UNSPECIFIED = "unspecified"
    LOOPBACK = "loopback"
    PRIVATE_USE = "private_use"
    SHARED = "shared"
    LINK_LOCAL = "link_local"
    SITE_LOCAL = "site_local"
    CLOUD_PLATFORM = "cloud_platform"
    MULTICAST = "multicast"
    BROADCAST = "broadcast"
    DOCUMENTATION = "documentation"
    BENCHMARKING = "benchmarking"
    PROTOCOL_ASSIGNMENT = "protocol_assignment"
    ANYCAST_SERVICE = "anycast_service"
    SEGMENT_ROUTING = "segment_routing"
    DISCARD = "discard"
    IPV4_MAPPED = "ipv4_mapped"
    IPV4_COMPATIBLE = "ipv4_compatible"
    IPV4_TRANSLATED = "ipv4_translated"
    TEREDO = "teredo"
    SIX_TO_FOUR = "six_to_four"
    NAT64 = "nat64"
    NAT64_LOCAL = "nat64_local"
    RESERVED = "reserved"


_C = AddressClass

# The first block that contains the address decides, so narrow blocks come first.
_IPV4_BLOCKS = tuple(
    (IPv4Network(network), address_class)
    for network, address_class in (
        ("0.0.0.0/8", _C.UNSPECIFIED),  # "this network", RFC 791; Linux connects 0.0.0.0 to itself
        ("10.0.0.0/8", _C.PRIVATE_USE),  # RFC 1918
        ("100.64.0.0/10", _C.SHARED),  # carrier NAT, RFC 6598; holds Alibaba's metadata, 100.100.100.200
        ("127.0.0.0/8", _C.LOOPBACK),  # RFC 1122
        (
            "168.63.129.16/32",
            _C.CLOUD_PLATFORM,
        ),  # Azure's host agent: public address space, served by the host
        ("169.254.0.0/16", _C.LINK_LOCAL),  # RFC 3927; holds the clouds' metadata, 169.254.169.254
        ("172.16.0.0/12", _C.PRIVATE_USE),  # RFC 1918
        ("192.0.0.0/24", _C.PROTOCOL_ASSIGNMENT),  # RFC 6890; holds Oracle's metadata, 192.0.0.192
        ("192.0.2.0/24", _C.DOCUMENTATION),  # TEST-NET-1, RFC 5737
        ("192.31.196.0/24", _C.ANYCAST_SERVICE),  # AS112, RFC 7535
        ("192.52.193.0/24", _C.ANYCAST_SERVICE),  # AMT relays, RFC 7450
        ("192.88.99.0/24", _C.SIX_TO_FOUR),  # 6to4 relays, RFC 3068, deprecated by RFC 7526
        ("192.168.0.0/16", _C.PRIVATE_USE),  # RFC 1918
        ("192.175.48.0/24", _C.ANYCAST_SERVICE),  # direct delegation AS112, RFC 7534
        ("198.18.0.0/15", _C.BENCHMARKING),  # RFC 2544
        ("198.51.100.0/24", _C.DOCUMENTATION),  # TEST-NET-2, RFC 5737
        ("203.0.113.0/24", _C.DOCUMENTATION),  # TEST-NET-3, RFC 5737
        ("224.0.0.0/4", _C.MULTICAST),  # RFC 5771
        ("255.255.255.255/32", _C.BROADCAST),  # RFC 919
        ("240.0.0.0/4", _C.RESERVED),  # RFC 1112
    )
)

_IPV6_GLOBAL_UNICAST = IPv6Network("2000::/3")  # RFC 4291; all unicast space that IANA has allocated

_IPV6_BLOCKS = tuple(
    (IPv6Network(network), address_class)
    for network, address_class in (
        # Inside 2000::/3
        ("2001::/32", _C.TEREDO),  # RFC 4380
        ("2001::/23", _C.PROTOCOL_ASSIGNMENT),  # RFC 2928
        ("2001:db8::/32", _C.DOCUMENTATION),  # RFC 3849
        ("2002::/16", _C.SIX_TO_FOUR),  # RFC 3056
        ("3fff::/20", _C.DOCUMENTATION),  # RFC 9637
        # Outside it: always refused, listed so that logs name the block
        ("::/128", _C.UNSPECIFIED),  # RFC 4291
        ("::1/128", _C.LOOPBACK),  # RFC 4291
        ("::ffff:0:0/96", _C.IPV4_MAPPED),  # RFC 4291
        ("::ffff:0:0:0/96", _C.IPV4_TRANSLATED),  # RFC 2765
        ("::/96", _C.IPV4_COMPATIBLE),  # RFC 4291, deprecated
        ("64:ff9b::/96", _C.NAT64),  # RFC 6052
        ("64:ff9b:1::/48", _C.NAT64_LOCAL),  # RFC 8215
        ("100::/64", _C.DISCARD),  # RFC 6666
        ("100:0:0:1::/64", _C.DISCARD),  # dummy prefix, RFC 9780
        ("5f00::/16", _C.SEGMENT_ROUTING),  # RFC 9602
        ("fc00::/7", _C.PRIVATE_USE),  # unique local, RFC 4193; holds AWS's metadata, fd00:ec2::254
        ("fe80::/10", _C.LINK_LOCAL),  # RFC 4291
        ("fec0::/10", _C.SITE_LOCAL),  # RFC 3879, deprecated
        ("ff00::/8", _C.MULTICAST),  # RFC 4291
    )
)

NAT64_WELL_KNOWN = IPv6Network("64:ff9b::/96")
NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")
_RESERVED_OCTET = 8  # always zero, RFC 6052

# RFC 6052, section 2.2: the octets of the IPv6 address that hold the IPv4 address, by prefix length.
_IPV4_OCTETS: dict[int, tuple[int, int, int, int]] = {
    32: (4, 5, 6, 7),
    40: (5, 6, 7, 9),
    48: (6, 7, 9, 10),
    56: (7, 9, 10, 11),
    64: (9, 10, 11, 12),
    96: (12, 13, 14, 15),
}
NAT64_PREFIX_LENGTHS = frozenset(_IPV4_OCTETS)


def classify(address: str | IPv4Address | IPv6Address, *, nat64: Iterable[IPv6Network] = ()) -> AddressClass:
    """Classify one address.

    Args:
        address: text is parsed strictly: no leading zeros, no shorthand, no zone id, no white space.
        nat64: prefixes that the operator's own NAT64 translates, including the well-known prefix
            if it is translated. For addresses in them, the embedded IPv4 address is classified.
            Their lengths must be in `NAT64_PREFIX_LENGTHS`. 64:ff9b:1::/48 is always refused.
    """
    parsed = parse_address(address)
    if parsed is None:
        return AddressClass.NOT_AN_ADDRESS
    if isinstance(parsed, IPv4Address):
        return _classify_ipv4(parsed)
    return _classify_ipv6(parsed, nat64)


def parse_address(address: str | IPv4Address | IPv6Address) -> IPv4Address | IPv6Address | None:
    """Parse one address. Returns None if the text is not exactly one address; a zone id is not accepted."""
    if isinstance(address, str):
        try:
            address = ip_address(address)
        except ValueError:
            return None
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        return None
    return address


def _classify_ipv4(address: IPv4Address) -> AddressClass:
    for network, address_class in _IPV4_BLOCKS:
        if address in network:
            return address_class
    return AddressClass.PUBLIC


def _classify_ipv6(address: IPv6Address, nat64: Iterable[IPv6Network]) -> AddressClass:
    if address not in NAT64_LOCAL:
        for prefix in nat64:
            if address in prefix:
                embedded = _embedded_ipv4(address, prefix)
                return _classify_ipv4(embedded) if embedded else AddressClass.NAT64
    for network, address_class in _IPV6_BLOCKS:
        if address in network:
            return address_class
    return AddressClass.PUBLIC if address in _IPV6_GLOBAL_UNICAST else AddressClass.RESERVED


def _embedded_ipv4(address: IPv6Address, prefix: IPv6Network) -> IPv4Address | None:
    """The IPv4 address that a translator would connect to; None if the reserved octet is not zero.

    Translators may differ in how they handle a reserved octet that is not zero.
    """
    octets = address.packed
    if octets[_RESERVED_OCTET] != 0:
        return None
    return IPv4Address(bytes(octets[index] for index in _IPV4_OCTETS[prefix.prefixlen]))
