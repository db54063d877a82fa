"""The URLs of servers that an operator sets, in one spelling. They follow the customers' rules for paths, so that a pasted URL works.

The operator is trusted: any host, port and address is allowed. No error message contains a value.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Annotated, Final
from urllib.parse import SplitResult

from pydantic import AfterValidator, BeforeValidator

from app.core.loopback import is_loopback
from app.provider_url.address_policy import parse_address
from app.provider_url.host_name import ascii_name
from app.provider_url.messages_path import MESSAGES_PATH, messages_path
from app.provider_url.url_policy import has_forbidden_characters, quote_path
from app.settings.types import InvalidSetting, Words, split_url

_DEFAULT_PORTS: Final = {"https": 443, "http": 80}
# Names of private networks may have underscores. A label that claims to be an A-label must be one.
_PRIVATE_LABEL = r"(?!xn--)[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_PRIVATE_NAME = re.compile(rf"(?=.{{1,253}}\Z){_PRIVATE_LABEL}(?:\.{_PRIVATE_LABEL})*")

_WILDCARD = re.compile(r"\A(https?://)\*\.")
# Some libraries resolve dot segments and repair escapes, and others send them as they are.
_AMBIGUOUS_PATH = re.compile(r"/\.\.?(?:/|\Z)|%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorUrl:
    """A URL that every library reads in the same way: the host in lower-case A-labels, no default port, an ASCII path."""

    scheme: str
    host: str  # IPv6 addresses without brackets
    port: int | None
    path: str

    @property
    def origin(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + (f":{self.port}" if self.port is not None else "")

    @property
    def is_plain_to_another_machine(self) -> bool:
        return self.scheme == "http" and not is_loopback(self.host)


def parse_operator_url(value: str, *, example: str, with_query: bool = False) -> OperatorUrl:
    """Parse a URL. The query is not part of the result.

    Raises:
        InvalidSetting
    """
    expected = f"must be a URL such as {example}"
    if has_forbidden_characters(value):
        raise InvalidSetting(expected + ", without white space, quotes and invisible characters")
    parts = split_url(value)
    if parts is None or parts.scheme not in _DEFAULT_PORTS:
        raise InvalidSetting(expected)
    if "@" in parts.netloc:
        raise InvalidSetting(expected + ", without credentials")
    if "#" in value or ("?" in value and not with_query):
        raise InvalidSetting(expected + f", without {'' if with_query else 'a query and '}a fragment")
    host = _canonical_host(parts)
    if host is None:
        raise InvalidSetting(expected + ", with a host name or an IP address")
    if _AMBIGUOUS_PATH.search(parts.path):
        raise InvalidSetting(expected + ", without /./, /../ and an incomplete percent escape in the path")
    return OperatorUrl(
        scheme=parts.scheme,
        host=host,
        port=None if parts.port == _DEFAULT_PORTS[parts.scheme] else parts.port,
        path=quote_path(parts.path),
    )


def _canonical_host(parts: SplitResult) -> str | None:
    """The host as it is sent; None if no library could connect to it."""
    host = parts.hostname or ""
    if "[" in parts.netloc:
        address = parse_address(host)
        return address.compressed if isinstance(address, IPv6Address) else None
    name = host.removesuffix(".")
    canonical = name if _PRIVATE_NAME.fullmatch(name) else ascii_name(name)
    # With a dot at the end, the system's resolver does not use its search domains.
    return None if canonical is None else canonical + host[len(name) :]


def _provider_url(value: str) -> str:
    """Return the base URL, without the path of the messages endpoint."""
    url = parse_operator_url(value, example="https://api.anthropic.com")
    if url.is_plain_to_another_machine:
        raise InvalidSetting(
            "must be https; plain http is allowed only for loopback addresses in development"
        )
    path = messages_path(url.path)
    if path is None:
        raise InvalidSetting(
            "must be the base URL, such as https://api.anthropic.com; remove the path of the endpoint, because"
            " /v1/messages is added"
        )
    return f"{url.origin}{path.removesuffix(MESSAGES_PATH)}"


def _vault_address(value: str) -> str:
    """Return the address without the `/v1` of the HTTP API, which the client adds."""
    url = parse_operator_url(value, example="https://vault.example.com:8200")
    segments = [segment for segment in url.path.split("/") if segment]
    if "ui" in segments:
        raise InvalidSetting("must be the address of the server; remove /ui and everything after it")
    if segments[-1:] == ["v1"]:
        del segments[-1]
    if "v1" in segments:
        raise InvalidSetting("must be the address of the server; remove /v1 and everything after it")
    return "/".join([url.origin, *segments])


def _origins(value: list[str]) -> list[str]:
    for text in value:
        # The value is compared unchanged with the Origin header, so any other form would never match.
        if _origin(text) != text:
            raise InvalidSetting(
                "each must be an origin in the form that browsers send, such as https://app.example.com: lower case,"
                " international names as xn--, no path, no default port and no wildcard"
            )
    return value


def _frame_ancestors(value: list[str]) -> list[str]:
    """Origins; the host may begin with a wildcard, which browsers know in this list."""
    _origins([_WILDCARD.sub(r"\1wildcard.", text) for text in value])
    return value


def _origin(text: str) -> str | None:
    try:
        return parse_operator_url(text, example="").origin
    except InvalidSetting:
        return None


ProviderBaseUrl = Annotated[str, BeforeValidator(lambda value: _provider_url(str(value)))]
Origins = Annotated[Words, AfterValidator(_origins)]
FrameAncestors = Annotated[Words, AfterValidator(_frame_ancestors)]
VaultAddress = Annotated[str, BeforeValidator(lambda value: _vault_address(str(value)))]
