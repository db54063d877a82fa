"""The types of settings: how each is parsed from text and validated. No error message contains a value.

Only the message of an `InvalidSetting` is printed. The messages of other exceptions may quote the value.
"""

import json
import re
from datetime import timedelta
from ipaddress import IPv6Network, ip_address
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, ConfigDict, SecretStr, StringConstraints
from typing_extensions import TypedDict

from app.core.durations import parse_duration
from app.core.url_errors import UrlReason
from app.core.visible_text import is_invisible
from app.database.url import DatabaseUrl as ParsedDatabaseUrl
from app.database.url import parse_database_url
from app.database.url_parameters import DatabaseUrlRefused
from app.provider_url.address_policy import NAT64_LOCAL, NAT64_PREFIX_LENGTHS
from app.provider_url.host_name import validate_host
from app.provider_url.name_server import parse_name_server

_NOT_IN_A_HOST_NAME = re.compile(r"[\s:/\[\]]")
# Of a path in Vault. Policies have other meanings for * and +.
_SEGMENT = r"[A-Za-z0-9_.~@:-]+"
_VAULT_PATH = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")
_VISIBLE_ASCII = re.compile(r"[!-~]*")


class InvalidSetting(ValueError):
    """A value that a setting cannot have. The message is a constant."""


def _duration(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return parse_duration(value)
    except ValueError:
        raise InvalidSetting("must be a number and a unit, such as 30s, 15m, 72h or 7d") from None


def _words(value: object) -> object:
    return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value


def _database_url(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return parse_database_url(value)
    except DatabaseUrlRefused as error:
        raise InvalidSetting(str(error)) from None


def split_url(url: str) -> SplitResult | None:
    """Split a URL; None if it has no host or an invalid port."""
    try:
        parts = urlsplit(url)
        is_valid = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if is_valid else None


def _listening_host(value: str) -> str:
    if not value or not (_is_address(value) or _is_host_name(value)):
        raise InvalidSetting(
            "must be an address or a host name of this machine, without a scheme, brackets and a port"
        )
    return value


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _is_host_name(text: str) -> bool:
    try:
        text.encode("idna")  # the socket does the same
    except UnicodeError:
        return False
    return not _NOT_IN_A_HOST_NAME.search(text)


def _exact_text(value: str) -> str:
    if is_invisible(value[0]) or is_invisible(value[-1]):
        raise InvalidSetting("must not begin or end with white space; it is compared with tokens as it is")
    return value


def _claim_names(value: list[str]) -> list[str]:
    if any(is_invisible(character) for name in value for character in name):
        raise InvalidSetting("must be names of claims, separated by commas and not by white space")
    return value


def _json(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise InvalidSetting("must be JSON") from None


def _optional_duration(value: object) -> object:
    return None if value == "off" else _duration(value)


def _nameservers(value: list[str]) -> list[str]:
    if any(parse_name_server(text) is None for text in value):
        raise InvalidSetting("each must be an IP address without a zone, address:port or [address]:port")
    return value


def _host_names(value: list[str]) -> list[str]:
    names = [validate_host(text) for text in value]
    if any(isinstance(name, UrlReason) for name in names):
        raise InvalidSetting("each must be a public host name, such as gateway.example.com")
    return [str(name) for name in names]


def _nat64_prefixes(value: list[str]) -> list[str]:
    for text in value:
        try:
            prefix = IPv6Network(text)
        except ValueError:
            prefix = None
        if prefix is None or prefix.prefixlen not in NAT64_PREFIX_LENGTHS:
            raise InvalidSetting("each must be an IPv6 prefix of 32, 40, 48, 56, 64 or 96 bits")
        if prefix.subnet_of(NAT64_LOCAL):
            raise InvalidSetting(
                "must not have a prefix inside 64:ff9b:1::/48, whose addresses are always refused"
            )
    return value


def _header_value(value: object) -> object:
    if isinstance(value, str) and not _VISIBLE_ASCII.fullmatch(value):
        raise InvalidSetting(
            "must not contain white space, line breaks and characters beyond ASCII; remove them"
        )
    return value


def _login_value(value: object) -> object:
    if isinstance(value, str) and value and (is_invisible(value[0]) or is_invisible(value[-1])):
        raise InvalidSetting("must not begin or end with white space or a line break; remove it")
    return value


def _vault_path(value: str) -> str:
    """The path in the one spelling that the server uses in its lists."""
    path = value.strip("/")
    if not _VAULT_PATH.fullmatch(path):
        raise InvalidSetting(
            "must be a path such as byok or team/byok, of letters, digits and the characters _ . ~ @ : -"
        )
    return path


def _vault_namespace(value: str) -> str:
    return _vault_path(value) if value.strip("/") else ""


Duration = Annotated[timedelta, BeforeValidator(_duration)]
OptionalDuration = Annotated[timedelta | None, BeforeValidator(_optional_duration)]
Words = Annotated[list[str], BeforeValidator(_words)]
ListeningHost = Annotated[str, AfterValidator(_listening_host)]
# Compared with a claim of tokens.
ExactText = Annotated[str, StringConstraints(min_length=1), AfterValidator(_exact_text)]
ClaimNames = Annotated[Words, AfterValidator(_claim_names)]
HostNames = Annotated[Words, AfterValidator(_host_names)]
Nameservers = Annotated[Words, AfterValidator(_nameservers)]
Nat64Prefixes = Annotated[Words, AfterValidator(_nat64_prefixes)]
DatabaseUrl = Annotated[ParsedDatabaseUrl, BeforeValidator(_database_url)]
# Checked before they are secrets, so that this module does not read any.
VaultToken = Annotated[SecretStr, BeforeValidator(_header_value)]
LoginText = Annotated[str, BeforeValidator(_login_value)]
SecretLoginText = Annotated[SecretStr, BeforeValidator(_login_value)]
VaultPath = Annotated[str, AfterValidator(_vault_path)]
VaultNamespace = Annotated[str, AfterValidator(_vault_namespace)]


def _lower_case(value: list[str]) -> list[str]:
    return [word.casefold() for word in value]


Codes = Annotated[Words, AfterValidator(_lower_case)]
PublicHost = Annotated[str, AfterValidator(lambda name: _host_names([name])[0])]


class HostMessagePatterns(TypedDict, total=False):
    """Words and codes by which one host says that there is no money."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]  # pydantic reads it from a TypedDict

    billing_problem: Words
    billing_codes: Codes


class MessagePatternsByName(TypedDict, total=False):
    """Words and codes of error messages, by name, and more of them by host."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]  # pydantic reads it from a TypedDict

    cors_refused: Words
    billing_problem: Words
    billing_codes: Codes
    spend_cap: Words
    organization_disabled: Words
    workspace_required: Words
    model_missing: Words
    hosts: dict[PublicHost, HostMessagePatterns]


MessagePatterns = Annotated[MessagePatternsByName, BeforeValidator(_json)]
