"""Property tests of the URL policy: it decides every text, and all parsers read an accepted URL alike."""

import socket
from ipaddress import ip_address

import idna
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.core.url_errors import UrlReason, UrlRefused
from app.provider_url.address_policy import AddressClass, classify
from app.provider_url.host_name import validate_host
from app.provider_url.url import ProviderURL
from app.provider_url.url_policy import OutboundUrl, validate_url
from tests.support.url_parsers import parser_differences

# Pieces that parsers disagree about, in addition to texts that Hypothesis generates.
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
_RANDOM_PIECES = st.lists(_PIECES | st.text(max_size=3), max_size=8).map("".join)
_LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?", fullmatch=True) | st.text(min_size=1, max_size=4)
_HOST = st.lists(_LABEL, min_size=1, max_size=3).map(lambda labels: ".".join([*labels, "example.com"]))
_PATH = st.lists(_PIECES | st.text(max_size=4), max_size=5).map(lambda segments: "/".join(["", *segments]))
_NEARLY_VALID_URL = st.builds("https://{}{}".format, _HOST, _PATH)

_WITHOUT_DEADLINE = settings(deadline=None)  # a busy machine is slow
_IPV4 = st.integers(0, 2**32 - 1)


def accept(typed: str) -> ProviderURL | None:
    try:
        return ProviderURL(typed)
    except UrlRefused:
        return None


@_WITHOUT_DEADLINE
@given(_RANDOM_PIECES | _NEARLY_VALID_URL | _RANDOM_PIECES.map("https://{}".format) | st.text())
@example("https://xn--\ud800")
def test_every_text_is_accepted_or_rejected(typed: str) -> None:
    assert isinstance(validate_url(typed), OutboundUrl | UrlReason)


@_WITHOUT_DEADLINE
@given(
    _NEARLY_VALID_URL
    | _RANDOM_PIECES.map("https://gw.example.com/{}".format)
    | _RANDOM_PIECES.map("https://{}.example.com".format)
)
@example("https://gw.example.com./[a]/%7Ex;y='")
@example("https://\u0130.example.com")
def test_all_parsers_read_an_accepted_url_alike(typed: str) -> None:
    url = accept(typed)

    assert url is None or list(parser_differences(typed, url)) == []


@_WITHOUT_DEADLINE
@given(_HOST | _RANDOM_PIECES, _PATH)
def test_case_of_scheme_and_host_does_not_matter(host: str, path: str) -> None:
    if host.isascii():
        assert accept(f"HTTPS://{host.upper()}{path}") == accept(f"https://{host.lower()}{path}")


@_WITHOUT_DEADLINE
@given(_HOST | _RANDOM_PIECES)
def test_host_rules_agree_with_idna(host: str) -> None:
    name = validate_host(host)

    if not isinstance(name, UrlReason):
        assert idna.encode(host, uts46=True, std3_rules=True).decode().removesuffix(".") == name


@_WITHOUT_DEADLINE
@given(_IPV4, st.sampled_from(["{}", "{:#x}", "0{:o}", "1.{}", "0x7f.{}", "{}."]))
def test_numbers_are_rejected_as_addresses(number: int, spelling: str) -> None:
    assert validate_host(spelling.format(number)) is UrlReason.HOST_IS_IP


@_WITHOUT_DEADLINE
@given(_HOST | _RANDOM_PIECES)
def test_no_accepted_name_is_an_address_for_the_c_library(host: str) -> None:
    name = validate_host(host)

    if not isinstance(name, UrlReason):
        with pytest.raises(OSError, match="illegal IP address"):
            socket.inet_aton(name)


@_WITHOUT_DEADLINE
@given(_IPV4 | st.integers(0, 2**128 - 1))
def test_every_address_is_classified_at_least_as_strictly_as_by_python(number: int) -> None:
    address = ip_address(number)

    address_class = classify(address)

    assert address_class is classify(str(address))
    if address_class is AddressClass.PUBLIC:
        assert not address.is_private
        assert not address.is_multicast
        assert not address.is_reserved
