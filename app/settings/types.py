"""The types of settings: how each is parsed from text and validated. No error message contains a value.

Only the message of an `InvalidSetting` is printed. The messages of other exceptions may quote the value.
"""

import json
from datetime import timedelta
from ipaddress import IPv6Network
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, ConfigDict
from typing_extensions import TypedDict

from app.core.durations import parse_duration
from app.core.url_errors import UrlReason
from app.database.url import DatabaseUrl as ParsedDatabaseUrl
from app.database.url import parse_database_url
from app.database.url_parameters import DatabaseUrlRefused
from app.provider_url.address_policy import NAT64_PREFIX_LENGTHS
from app.provider_url.host_name import validate_host
from app.provider_url.name_server import parse_name_server


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
    try:
        value.encode("idna")  # the socket does the same
    except UnicodeError:
        value = ""
    if not value:
        raise InvalidSetting("must be an address or a host name of this machine")
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


def _origins(value: list[str]) -> list[str]:
    for text in value:
        parts = split_url(text)
        is_origin = parts is not None and parts.scheme in {"https", "http"} and "@" not in parts.netloc
        # The value is compared unchanged with the Origin header, so any other form would never match.
        if parts is None or not is_origin or text != f"{parts.scheme}://{parts.netloc.lower()}":
            raise InvalidSetting(
                "each must be an origin in the form that browsers send, such as https://app.example.com"
            )
    return value


def _nat64_prefixes(value: list[str]) -> list[str]:
    for text in value:
        try:
            length = IPv6Network(text).prefixlen
        except ValueError:
            length = 0
        if length not in NAT64_PREFIX_LENGTHS:
            raise InvalidSetting("each must be an IPv6 prefix of 32, 40, 48, 56, 64 or 96 bits")
    return value


Duration = Annotated[timedelta, BeforeValidator(_duration)]
OptionalDuration = Annotated[timedelta | None, BeforeValidator(_optional_duration)]
Words = Annotated[list[str], BeforeValidator(_words)]
ListeningHost = Annotated[str, AfterValidator(_listening_host)]
HostNames = Annotated[Words, AfterValidator(_host_names)]
Nameservers = Annotated[Words, AfterValidator(_nameservers)]
Origins = Annotated[Words, AfterValidator(_origins)]
Nat64Prefixes = Annotated[Words, AfterValidator(_nat64_prefixes)]
DatabaseUrl = Annotated[ParsedDatabaseUrl, BeforeValidator(_database_url)]


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
