"""Which host names we may call: after IDNA, and before any DNS query."""

import re
from ipaddress import IPv6Address
from typing import Final

import idna

from app.domain.url_refusal import UrlReason

_MAX_NAME_LENGTH: Final = 253

# What /etc/hosts calls the machine itself on the systems we know; *.localhost by RFC 6761.
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

# Last labels that mean something else in every network. example.com, .net and .org are ordinary names.
_RESERVED_SUFFIXES = frozenset(
    {
        "alt",  # RFC 9476
        "arpa",  # RFC 3172, home.arpa RFC 8375
        "example",  # RFC 6761
        "internal",  # reserved by ICANN for private use, 2024; clouds keep their metadata there
        "invalid",  # RFC 6761
        "local",  # RFC 6762; also Kubernetes' cluster.local
        "onion",  # RFC 7686
        "test",  # RFC 6761
        # In wide private use, RFC 6762 appendix G; .home and .corp never to be delegated, ICANN 2018
        "corp",
        "home",
        "intranet",
        "lan",
        "localdomain",
        "private",
        "svc",  # Kubernetes services by their short name
    }
)

_IPV6_LITERAL = re.compile(r"\[(?P<address>[0-9A-Fa-f:.]+)(?:%.*)?\]")
# The test of the WHATWG URL standard: a name that ends in a number is an IPv4 address or nothing.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
# Hyphens in third and fourth place are kept for A-labels, RFC 5891.
_LETTERS_DIGITS_HYPHEN = re.compile(r"(?!..--)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


def judge_host(text: str) -> str | UrlReason:  # noqa: PLR0911  # one rule a line, in order of precedence
    """The name as DNS is asked for it, in lower-case A-labels; or why we may not call it."""
    if "[" in text or "]" in text:
        return UrlReason.HOST_IS_IP if _is_ipv6_literal(text) else UrlReason.HOST_INVALID
    if "%" in text:
        return UrlReason.HOST_INVALID
    try:
        mapped = idna.uts46_remap(text, std3_rules=False)
    except UnicodeError:
        return UrlReason.HOST_INVALID
    # One trailing dot marks a name as absolute. We ask for absolute names only, so it says nothing.
    labels = mapped.removesuffix(".").split(".")
    if _NUMBER.fullmatch(labels[-1]):
        return UrlReason.HOST_IS_IP
    if labels[-1] == "localhost" or ".".join(labels) in _LOCALHOST_NAMES:
        return UrlReason.HOST_IS_LOCALHOST
    name = _to_ascii(labels)
    if name is None:
        return UrlReason.HOST_INVALID
    if len(labels) == 1 or labels[-1] in _RESERVED_SUFFIXES:
        return UrlReason.HOST_IS_RESERVED_NAME
    return name


def _is_ipv6_literal(text: str) -> bool:
    literal = _IPV6_LITERAL.fullmatch(text)
    if literal is None:
        return False
    try:
        IPv6Address(literal["address"])
    except ValueError:
        return False
    return True


def _to_ascii(labels: list[str]) -> str | None:
    try:
        name = ".".join(_label_to_ascii(label) for label in labels)
    except UnicodeError:
        return None
    return name if len(name) <= _MAX_NAME_LENGTH else None


def _label_to_ascii(label: str) -> str:
    if _LETTERS_DIGITS_HYPHEN.fullmatch(label):
        return label
    # Raises for everything but U-labels and A-labels that are valid, canonical and short enough.
    return idna.alabel(label).decode("ascii")
