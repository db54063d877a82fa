"""URLs that an operator sets: one spelling that every library reads in the same way, or a refusal before the start."""

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from yarl import URL

from app.settings.groups.provider import ProviderSettings
from app.settings.groups.storage import VaultSettings
from app.settings.invalid_values import lines_of


def base_url(text: str) -> str:
    return ProviderSettings(default_base_url=text).default_base_url


def refusal(text: str) -> str:
    with pytest.raises(ValidationError) as refused:
        base_url(text)
    (line,) = lines_of(refused.value)
    return line


class TestSpelling:
    @pytest.mark.parametrize(
        ("text", "spelling"),
        [
            ("https://API.ANTHROPIC.COM", "https://api.anthropic.com"),
            ("HTTPS://Gateway.Example.com/Anthropic", "https://gateway.example.com/Anthropic"),
            ("https://bücher.de", "https://xn--bcher-kva.de"),
            ("https://faß.de", "https://xn--fa-hia.de"),
            ("https://XN--BCHER-KVA.de", "https://xn--bcher-kva.de"),
            ("https://xn--bcher-kva.r3---sn.example.com", "https://xn--bcher-kva.r3---sn.example.com"),
            ("https://\uff11\uff12.example.com", "https://12.example.com"),
            ("https://[2001:DB8:0::1]:8443", "https://[2001:db8::1]:8443"),
            ("https://x.com:", "https://x.com"),
            ("https://x.com:443/a", "https://x.com/a"),
            ("https://x.com:0443", "https://x.com"),
            ("https://x.com:80", "https://x.com:80"),
            ("http://LOCALHOST:80", "http://localhost"),
            ("http://[0:0::1]:9000", "http://[::1]:9000"),
            ("https://gw_1.internal.:8443", "https://gw_1.internal.:8443"),
            ("https://x.com/bücher", "https://x.com/b%C3%BCcher"),
            ("https://x.com/a%2Fb", "https://x.com/a%2Fb"),
        ],
    )
    def test_is_the_same_for_all_ways_to_write_an_endpoint(self, text: str, spelling: str) -> None:
        assert base_url(text) == spelling
        assert base_url(spelling) == spelling

    def test_of_the_vault_address_is_the_same_too(self) -> None:
        assert (
            VaultSettings(address="https://VAULT.example.com:443/v1").address == "https://vault.example.com"
        )

    @given(
        st.text(st.sampled_from("aZ0ü\uff11.-_:[]@%/\u00ad\u200b \U0001f600\u0664"), max_size=12),
        st.sampled_from(
            ["https://{}", "https://gw{}.example.com", "https://example.com{}", "https://[::1]{}"]
        ),
    )
    def test_is_read_in_the_same_way_by_the_relay_and_by_probes(self, part: str, form: str) -> None:
        try:
            spelling = base_url(form.format(part))
        except ValidationError:
            return

        probed, relayed = httpx.URL(spelling), URL(spelling, encoded=True)
        assert probed.raw_host == (relayed.raw_host or "").encode()
        assert (probed.port or 443) == relayed.port
        assert str(probed.copy_with(raw_path=b"/")) == f"{URL(spelling).origin()}/" == f"{relayed.origin()}/"
        assert base_url(spelling) == spelling


class TestRefusals:
    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("https://gateway.example.com\u200b", "without white space, quotes and invisible characters"),
            ("https://gate\u00adway.example.com", "without white space, quotes and invisible characters"),
            (" https://gateway.example.com", "without white space, quotes and invisible characters"),
            ("https://\U0001f600.example.com", "with a host name or an IP address"),
            ("https://[v1.x]", "with a host name or an IP address"),
            ("https://[fe80::1%25eth0]", "with a host name or an IP address"),
            ("https://xn--a.example.com", "with a host name or an IP address"),
            ("https://a..b", "with a host name or an IP address"),
            (f"https://{'a' * 64}.example.com", "with a host name or an IP address"),
            ("https://a%41.example.com", "with a host name or an IP address"),
            ("https://a,https://b", "with a host name or an IP address"),
            ("https://example.com/a/../b", "without /./, /../ and an incomplete percent escape in the path"),
            ("https://example.com/%zz", "without /./, /../ and an incomplete percent escape in the path"),
        ],
    )
    def test_of_urls_that_no_library_could_call_say_what_to_remove(self, text: str, reason: str) -> None:
        line = refusal(text)

        assert line.startswith("BYOK_DEFAULT_BASE_URL: must be a URL such as https://api.anthropic.com, ")
        assert line.endswith(reason)
