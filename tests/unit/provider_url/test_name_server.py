"""Addresses of DNS servers. The settings and the resolver accept the same ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.egress.resolver import DnsResolver
from app.provider_url.name_server import NameServer, parse_name_server
from app.settings.groups.provider import DnsSettings


class TestParse:
    @pytest.mark.parametrize(
        ("text", "address", "port"),
        [
            ("192.0.2.1", "192.0.2.1", 53),
            ("192.0.2.1:5353", "192.0.2.1", 5353),
            ("192.0.2.1:00053", "192.0.2.1", 53),
            ("2001:db8::1", "2001:db8::1", 53),
            ("[2001:db8::1]:65535", "2001:db8::1", 65535),
        ],
    )
    def test_accepts_an_address_with_and_without_a_port(self, text: str, address: str, port: int) -> None:
        assert parse_name_server(text) == NameServer(address=address, port=port)

    @pytest.mark.parametrize(
        "text",
        [
            "fe80::1%eth0",
            "[fe80::1%eth0]:53",
            "[::1]",
            "[::1",
            "::1]",
            "8.8.8.8:",
            "8.8.8.8:0",
            "8.8.8.8:65536",
            "8.8.8.8: 53",
            "8.8.8.8:+53",
            "8.8.8.8:5_3",
            "8.8.8.8:000053",
            "8.8.8.8:\u0665\u0663",
            "dns.example.com",
            "",
        ],
    )
    def test_rejects_what_the_resolver_could_not_use(self, text: str) -> None:
        assert parse_name_server(text) is None


class TestSettings:
    @given(
        st.text(st.sampled_from("0158:.[]%+_ e\u0665"), min_size=1, max_size=12)
        | st.from_regex(r"(8\.8\.8\.8|\[::1\]|::1)(:[ +0-9_]{0,6})?", fullmatch=True)
    )
    def test_accept_what_the_resolver_accepts(self, text: str) -> None:
        try:
            servers = DnsSettings(nameservers=text).nameservers
        except ValidationError:
            with pytest.raises(ValueError, match="a name server must be"):
                DnsResolver([part.strip() for part in text.split(",")])
        else:
            DnsResolver(servers)
