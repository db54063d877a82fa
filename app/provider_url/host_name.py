"""Validates host names: IDNA conversion and the policy for names, before any DNS query."""

import re
import unicodedata
from ipaddress import IPv6Address
from typing import Final

import idna

from app.core.url_errors import UrlReason

_MAX_NAME_LENGTH: Final = 253
_MAX_LABEL_LENGTH: Final = 63

# Names of the local machine in common /etc/hosts files; *.localhost by RFC 6761.
_LOCALHOST_NAMES = frozenset(
    {
        "broadcasthost",
        "ip6-localhost",
        "ip6-loopback",
        "localhost.localdomain",
        "localhost4",
        "localhost4.localdomain4",
        "localhost6",
        "localhost6.localdomain6",
        "loopback",
    }
)

# Last labels whose meaning depends on the local network. example.com, .net and .org are ordinary names.
_RESERVED_SUFFIXES = frozenset(
    {
        "alt",  # RFC 9476
        "arpa",  # RFC 3172, home.arpa RFC 8375
        "example",  # RFC 6761
        "internal",  # reserved by ICANN for private use, 2024; clouds use it for metadata services
        "invalid",  # RFC 6761
        "local",  # RFC 6762; also Kubernetes' cluster.local
        "onion",  # RFC 7686
        "test",  # RFC 6761
        # Widely used in private networks, RFC 6762 appendix G; ICANN will not delegate .home and .corp (2018)
        "corp",
        "home",
        "intranet",
        "lan",
        "localdomain",
        "private",
        "svc",  # short names of Kubernetes services
    }
)

_IPV6_LITERAL = re.compile(r"\[(?P<address>[0-9A-Fa-f:.]+)(?:%.*)?\]")
# WHATWG URL standard: a name whose last label is a number is an IPv4 address or invalid.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
# RFC 5891 reserves hyphens as third and fourth character for A-labels. Names that break this rule exist, and browsers
# accept them (UTS 46 with CheckHyphens=false), so only labels that claim to be A-labels are checked as such.
_PLAIN_LABEL = r"(?!xn--)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_PLAIN_NAME = re.compile(rf"{_PLAIN_LABEL}(?:\.{_PLAIN_LABEL})*")
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")
_RIGHT_TO_LEFT = frozenset({"R", "AL", "AN"})


def validate_host(text: str) -> str | UrlReason:  # noqa: PLR0911  # one rule per line, in order of precedence
    """Return the name for DNS queries, in lower-case A-labels, or the reason why it is not allowed."""
    if "[" in text or "]" in text:
        return UrlReason.HOST_IS_IP if _is_ipv6_literal(text) else UrlReason.HOST_INVALID
    if "%" in text:
        return UrlReason.HOST_INVALID
    mapped = _mapped(text)
    if mapped is None:
        return UrlReason.HOST_INVALID
    # A trailing dot marks a name as absolute. All DNS queries use absolute names, so it is redundant.
    mapped = mapped.removesuffix(".")
    last_label = mapped.rpartition(".")[2]
    if _NUMBER.fullmatch(last_label):
        return UrlReason.HOST_IS_IP
    if last_label == "localhost" or mapped in _LOCALHOST_NAMES:
        return UrlReason.HOST_IS_LOCALHOST
    name = _to_ascii(mapped)
    if name is None:
        return UrlReason.HOST_INVALID
    if "." not in name or last_label in _RESERVED_SUFFIXES:
        return UrlReason.HOST_IS_RESERVED_NAME
    return name


def ascii_name(text: str) -> str | None:
    """Return the name in lower-case A-labels, whatever the policy says about it; None if it is not a host name."""
    mapped = _mapped(text)
    return None if mapped is None else _to_ascii(mapped)


def _mapped(text: str) -> str | None:
    try:
        # For ASCII names, lower-casing is the whole mapping.
        return text.lower() if text.isascii() else idna.uts46_remap(text, std3_rules=False)
    except UnicodeError:
        return None


def _is_ipv6_literal(text: str) -> bool:
    literal = _IPV6_LITERAL.fullmatch(text)
    if literal is None:
        return False
    try:
        IPv6Address(literal["address"])
    except ValueError:
        return False
    return True


def _to_ascii(name: str) -> str | None:
    if not _PLAIN_NAME.fullmatch(name):
        try:
            name = _encode(name.split("."))
        except UnicodeError:
            return None
    return name if len(name) <= _MAX_NAME_LENGTH else None


def _encode(labels: list[str]) -> str:
    """Return the name in valid, canonical A-labels of allowed length. Raises UnicodeError if that is not possible."""
    encoded, readable = [], []
    for label in labels:
        if label.startswith("xn--"):
            readable.append(idna.ulabel(label))
            encoded.append(label)
        else:
            readable.append(label)
            encoded.append(label if _PLAIN_NAME.fullmatch(label) else idna.alabel(label).decode("ascii"))
    if any(len(label) > _MAX_LABEL_LENGTH for label in encoded):
        raise UnicodeError
    # A right-to-left label imposes rules on all other labels, RFC 5893. idna checks each label separately.
    beyond_ascii = _BEYOND_ASCII.findall("".join(readable))
    if any(unicodedata.bidirectional(character) in _RIGHT_TO_LEFT for character in beyond_ascii):
        for label in readable:
            idna.check_bidi(label, check_ltr=True)
    return ".".join(encoded)
