"""Tests of the address policy: every block, and the addresses just outside it."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

import pytest

from app.provider_url.address_policy import NAT64_PREFIX_LENGTHS, NAT64_WELL_KNOWN, AddressClass, classify

V = AddressClass

# first and last address, class of the block, class of the address below and above (None: no such address)
IPV4_BLOCKS = [
    ("0.0.0.0", "0.255.255.255", V.UNSPECIFIED, None, V.PUBLIC),  # noqa: S104  # nothing is bound
    ("10.0.0.0", "10.255.255.255", V.PRIVATE_USE, V.PUBLIC, V.PUBLIC),
    ("100.64.0.0", "100.127.255.255", V.SHARED, V.PUBLIC, V.PUBLIC),
    ("127.0.0.0", "127.255.255.255", V.LOOPBACK, V.PUBLIC, V.PUBLIC),
    ("168.63.129.16", "168.63.129.16", V.CLOUD_PLATFORM, V.PUBLIC, V.PUBLIC),
    ("169.254.0.0", "169.254.255.255", V.LINK_LOCAL, V.PUBLIC, V.PUBLIC),
    ("172.16.0.0", "172.31.255.255", V.PRIVATE_USE, V.PUBLIC, V.PUBLIC),
    ("192.0.0.0", "192.0.0.255", V.PROTOCOL_ASSIGNMENT, V.PUBLIC, V.PUBLIC),
    ("192.0.2.0", "192.0.2.255", V.DOCUMENTATION, V.PUBLIC, V.PUBLIC),
    ("192.31.196.0", "192.31.196.255", V.ANYCAST_SERVICE, V.PUBLIC, V.PUBLIC),
    ("192.52.193.0", "192.52.193.255", V.ANYCAST_SERVICE, V.PUBLIC, V.PUBLIC),
    ("192.88.99.0", "192.88.99.255", V.SIX_TO_FOUR, V.PUBLIC, V.PUBLIC),
    ("192.168.0.0", "192.168.255.255", V.PRIVATE_USE, V.PUBLIC, V.PUBLIC),
    ("192.175.48.0", "192.175.48.255", V.ANYCAST_SERVICE, V.PUBLIC, V.PUBLIC),
    ("198.18.0.0", "198.19.255.255", V.BENCHMARKING, V.PUBLIC, V.PUBLIC),
    ("198.51.100.0", "198.51.100.255", V.DOCUMENTATION, V.PUBLIC, V.PUBLIC),
    ("203.0.113.0", "203.0.113.255", V.DOCUMENTATION, V.PUBLIC, V.PUBLIC),
    ("224.0.0.0", "239.255.255.255", V.MULTICAST, V.PUBLIC, V.RESERVED),
    ("240.0.0.0", "255.255.255.254", V.RESERVED, V.MULTICAST, V.BROADCAST),
    ("255.255.255.255", "255.255.255.255", V.BROADCAST, V.RESERVED, None),
]
FFFF = "ffff:ffff:ffff:ffff"
IPV6_BLOCKS = [
    ("::", "::", V.UNSPECIFIED, None, V.LOOPBACK),
    ("::1", "::1", V.LOOPBACK, V.UNSPECIFIED, V.IPV4_COMPATIBLE),
    ("::2", "::ffff:ffff", V.IPV4_COMPATIBLE, V.LOOPBACK, V.RESERVED),
    ("::ffff:0:0", "::ffff:ffff:ffff", V.IPV4_MAPPED, V.RESERVED, V.RESERVED),
    ("::ffff:0:0:0", "::ffff:0:ffff:ffff", V.IPV4_TRANSLATED, V.RESERVED, V.RESERVED),
    ("64:ff9b::", "64:ff9b::ffff:ffff", V.NAT64, V.RESERVED, V.RESERVED),
    ("64:ff9b:1::", f"64:ff9b:1:ffff:{FFFF}", V.NAT64_LOCAL, V.RESERVED, V.RESERVED),
    ("100::", f"100::{FFFF}", V.DISCARD, V.RESERVED, V.DISCARD),
    ("100:0:0:1::", f"100:0:0:1:{FFFF}", V.DISCARD, V.DISCARD, V.RESERVED),
    ("2000::", f"2000:ffff:ffff:ffff:{FFFF}", V.PUBLIC, V.RESERVED, V.TEREDO),
    ("2001::", f"2001::ffff:ffff:{FFFF}", V.TEREDO, V.PUBLIC, V.PROTOCOL_ASSIGNMENT),
    ("2001:1::", f"2001:1ff:ffff:ffff:{FFFF}", V.PROTOCOL_ASSIGNMENT, V.TEREDO, V.PUBLIC),
    ("2001:db8::", f"2001:db8:ffff:ffff:{FFFF}", V.DOCUMENTATION, V.PUBLIC, V.PUBLIC),
    ("2002::", f"2002:ffff:ffff:ffff:{FFFF}", V.SIX_TO_FOUR, V.PUBLIC, V.PUBLIC),
    ("3fff::", f"3fff:fff:ffff:ffff:{FFFF}", V.DOCUMENTATION, V.PUBLIC, V.PUBLIC),
    ("3fff:1000::", f"3fff:ffff:ffff:ffff:{FFFF}", V.PUBLIC, V.DOCUMENTATION, V.RESERVED),
    ("5f00::", f"5f00:ffff:ffff:ffff:{FFFF}", V.SEGMENT_ROUTING, V.RESERVED, V.RESERVED),
    ("fc00::", f"fdff:ffff:ffff:ffff:{FFFF}", V.PRIVATE_USE, V.RESERVED, V.RESERVED),
    ("fe80::", f"febf:ffff:ffff:ffff:{FFFF}", V.LINK_LOCAL, V.RESERVED, V.SITE_LOCAL),
    ("fec0::", f"feff:ffff:ffff:ffff:{FFFF}", V.SITE_LOCAL, V.LINK_LOCAL, V.MULTICAST),
    ("ff00::", f"ffff:ffff:ffff:ffff:{FFFF}", V.MULTICAST, V.SITE_LOCAL, None),
]


@pytest.mark.parametrize(("first", "last", "inside", "below", "above"), IPV4_BLOCKS + IPV6_BLOCKS)
def test_block_starts_and_ends_as_registered(
    first: str, last: str, inside: V, below: V | None, above: V | None
) -> None:
    found = [
        None if below is None else classify(ip_address(first) - 1),
        classify(first),
        classify(last),
        None if above is None else classify(ip_address(last) + 1),
    ]

    assert found == [below, inside, inside, above]


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "160.79.104.10", "172.33.0.10", "223.255.255.255", "2606:4700::6812:6c0", "2620:4f:8000::1"],
)
def test_addresses_of_providers_are_public(address: str) -> None:
    assert classify(address) is V.PUBLIC


@pytest.mark.parametrize(
    ("cloud", "address"),
    [
        ("aws", "169.254.169.254"),
        ("aws", "fd00:ec2::254"),
        ("alibaba", "100.100.100.200"),
        ("azure", "168.63.129.16"),
        ("oracle", "192.0.0.192"),
        ("google", "fd20:ce::254"),
        ("tencent", "169.254.0.23"),
    ],
)
def test_metadata_services_are_not_public(cloud: str, address: str) -> None:
    assert classify(address) is not V.PUBLIC


class TestParsing:
    @pytest.mark.parametrize(
        "text",
        [
            "",
            "1.1.1",
            "1.1",
            "16843009",
            "0x1.1.1.1",
            "01.1.1.1",
            "1.1.1.1 ",
            "1.1.1.1\n",
            "1.1.1.1/32",
            "1.1.1.256",
            "\uff11.1.1.1",  # a fullwidth digit
            "1.1.1.1.",
            "2606:4700::1%eth0",
            "2606:4700::1%",
            "[2606:4700::1]",
            "2606:4700::00001",
            "2606:4700:::1",
            "::ffff:01.1.1.1",
            "api.anthropic.com",
        ],
    )
    def test_rejects_texts_that_are_not_exactly_an_address(self, text: str) -> None:
        assert classify(text) is V.NOT_AN_ADDRESS

    @pytest.mark.parametrize(
        "text", ["2606:4700:0:0:0:0:0:1", "2606:4700::0001", "2606:4700::1", "2606:4700::A"]
    )
    def test_accepts_any_case_and_zero_compression(self, text: str) -> None:
        assert classify(text) is V.PUBLIC

    def test_rejects_address_objects_with_a_zone_id(self) -> None:
        assert classify(IPv6Address("2606:4700::1%eth0")) is V.NOT_AN_ADDRESS


class TestEmbeddedIPv4:
    @pytest.mark.parametrize(
        "address", ["64:ff9b::8.8.8.8", "64:ff9b::10.0.0.1", "::ffff:8.8.8.8", "::8.8.8.8", "2002:808:808::"]
    )
    def test_is_not_public_by_default(self, address: str) -> None:
        assert classify(address) is not V.PUBLIC

    @pytest.mark.parametrize(
        ("ipv4", "expected"),
        [
            ("8.8.8.8", V.PUBLIC),
            ("10.0.0.1", V.PRIVATE_USE),
            ("169.254.169.254", V.LINK_LOCAL),
            ("127.0.0.1", V.LOOPBACK),
        ],
    )
    def test_is_classified_in_a_prefix_that_the_operator_translates(self, ipv4: str, expected: V) -> None:
        assert classify(f"64:ff9b::{ipv4}", nat64=[NAT64_WELL_KNOWN]) is expected

    # RFC 6052, section 2.4: 192.0.2.33 in 2001:db8::/32 and longer, here moved to public space.
    @pytest.mark.parametrize(
        ("prefix", "address"),
        [
            ("2a00:db8::/32", "2a00:db8:c000:221::"),
            ("2a00:db8:100::/40", "2a00:db8:1c0:2:21::"),
            ("2a00:db8:122::/48", "2a00:db8:122:c000:2:2100::"),
            ("2a00:db8:122:300::/56", "2a00:db8:122:3c0:0:221::"),
            ("2a00:db8:122:344::/64", "2a00:db8:122:344:c0:2:2100::"),
            ("2a00:db8:122:344::/96", "2a00:db8:122:344::192.0.2.33"),
        ],
    )
    def test_is_found_for_every_prefix_length(self, prefix: str, address: str) -> None:
        assert IPv6Network(prefix).prefixlen in NAT64_PREFIX_LENGTHS
        assert classify(address) is V.PUBLIC
        assert classify(address, nat64=[IPv6Network(prefix)]) is V.DOCUMENTATION

    def test_is_not_public_if_the_reserved_octet_is_not_zero(self) -> None:
        assert classify("2a00:db8:808:808:ff00::", nat64=[IPv6Network("2a00:db8::/32")]) is V.NAT64

    def test_is_not_public_in_the_local_prefix_even_if_configured(self) -> None:
        prefix = IPv6Network("64:ff9b:1::/48")

        assert classify("64:ff9b:1:808:8:800::", nat64=[prefix]) is V.NAT64_LOCAL

    def test_other_addresses_are_classified_as_without_nat64(self) -> None:
        classes = [
            classify(address, nat64=[NAT64_WELL_KNOWN]) for address in ("2606:4700::1", "fd00::1", "8.8.8.8")
        ]

        assert classes == [V.PUBLIC, V.PRIVATE_USE, V.PUBLIC]


def test_objects_and_texts_are_classified_alike() -> None:
    assert classify(IPv4Address("10.0.0.1")) is classify("10.0.0.1")
    assert classify(IPv6Address("2606:4700::1")) is classify("2606:4700::1")
