"""The URL policy by property: whatever is typed, it decides, and what it accepts reads alike everywhere."""

import socket
from ipaddress import ip_address

import idna
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.core.url_errors import UrlReason, UrlRefused
from app.provider_url.address_policy import AddressVerdict, classify
from app.provider_url.host_name import judge_host
from app.provider_url.url import ProviderURL
from app.provider_url.url_policy import OutboundUrl, judge_url
from tests.url_readings import misreadings

# Pieces that parsers quarrel about, besides what Hypothesis makes up.
_PIECES = st.sampled_from(
    [
        *(
            "https:",
            "HTTPS:",
            "http:",
            "//",
            "/",
            "\\",
            "@",
            ":",
            ":443",
            ":80",
            "?",
            "#",
            "[",
            "]",
            "[::1]",
            "%",
            "%2e",
            "%2f",
        ),
        *(
            ".",
            "..",
            "-",
            "--",
            "_",
            "xn--",
            "xn--bcher-kva",
            "0x7f",
            "127.0.0.1",
            "1",
            "localhost",
            "internal",
            "example.com",
        ),
        *(
            "v1",
            "messages",
            "/v1/messages",
            "\u3002",
            "\uff0e",
            "\uff0f",
            "\u2488",
            "\u2460",
            "\u00df",
            "\u212a",
            "\u0130",
        ),
        *(
            "\u05d0",
            "\u0660",
            "\u0301",
            "\ufe0f",
            "\u200d",
            "\u00ad",
            "\t",
            "\n",
            "\0",
            "\ud800",
            ";",
            ",",
            "!",
            "~",
        ),
    ]
)
_JUMBLE = st.lists(_PIECES | st.text(max_size=3), max_size=8).map("".join)
_LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?", fullmatch=True) | st.text(min_size=1, max_size=4)
_HOST = st.lists(_LABEL, min_size=1, max_size=3).map(lambda labels: ".".join([*labels, "example.com"]))
_PATH = st.lists(_PIECES | st.text(max_size=4), max_size=5).map(lambda segments: "/".join(["", *segments]))
_NEAR = st.builds("https://{}{}".format, _HOST, _PATH)

_RELAXED = settings(deadline=None)  # a busy machine proves nothing
_IPV4 = st.integers(0, 2**32 - 1)


def accepted(typed: str) -> ProviderURL | None:
    try:
        return ProviderURL(typed)
    except UrlRefused:
        return None


@_RELAXED
@given(_JUMBLE | _NEAR | _JUMBLE.map("https://{}".format) | st.text())
@example("https://xn--\ud800")
def test_every_text_gets_a_decision(typed: str) -> None:
    assert isinstance(judge_url(typed), OutboundUrl | UrlReason)


@_RELAXED
@given(_NEAR | _JUMBLE.map("https://gw.example.com/{}".format) | _JUMBLE.map("https://{}.example.com".format))
@example("https://gw.example.com./[a]/%7Ex;y='")
@example("https://\u0130.example.com")
def test_what_is_accepted_reads_alike_everywhere(typed: str) -> None:
    url = accepted(typed)

    assert url is None or list(misreadings(typed, url)) == []


@_RELAXED
@given(_HOST | _JUMBLE, _PATH)
def test_case_of_scheme_and_host_does_not_matter(host: str, path: str) -> None:
    if host.isascii():
        assert accepted(f"HTTPS://{host.upper()}{path}") == accepted(f"https://{host.lower()}{path}")


@_RELAXED
@given(_HOST | _JUMBLE)
def test_host_rules_agree_with_idna(host: str) -> None:
    judged = judge_host(host)

    if not isinstance(judged, UrlReason):
        assert idna.encode(host, uts46=True, std3_rules=True).decode().removesuffix(".") == judged


@_RELAXED
@given(_IPV4, st.sampled_from(["{}", "{:#x}", "0{:o}", "1.{}", "0x7f.{}", "{}."]))
def test_no_number_passes_for_a_name(number: int, spelling: str) -> None:
    assert judge_host(spelling.format(number)) is UrlReason.HOST_IS_IP


@_RELAXED
@given(_HOST | _JUMBLE)
def test_no_accepted_name_is_an_address_to_the_c_library(host: str) -> None:
    judged = judge_host(host)

    if not isinstance(judged, UrlReason):
        with pytest.raises(OSError, match="illegal IP address"):
            socket.inet_aton(judged)


@_RELAXED
@given(_IPV4 | st.integers(0, 2**128 - 1))
def test_every_address_gets_a_verdict_and_ours_is_never_laxer_than_python(number: int) -> None:
    address = ip_address(number)

    verdict = classify(address)

    assert verdict is classify(str(address))
    if verdict is AddressVerdict.PUBLIC:
        assert not address.is_private
        assert not address.is_multicast
        assert not address.is_reserved
