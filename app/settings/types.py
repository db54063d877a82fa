"""The types of settings: how each is read from text, and what of it is refused. No message repeats a value."""

import json
from datetime import timedelta
from ipaddress import IPv6Network, ip_address
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

import sqlalchemy as sa
from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode

from app.core.durations import parse_duration
from app.core.url_errors import UrlReason
from app.provider_url.address_policy import NAT64_PREFIX_LENGTHS
from app.provider_url.host_name import judge_host

LARGEST_PORT = 65535


def _duration(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


def _words(value: object) -> object:
    return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value


def _database_url(value: object) -> object:
    """Whatever PostgreSQL tools accept, as SQLAlchemy's asyncpg URL."""
    if not isinstance(value, str):
        return value
    try:
        url = sa.make_url(value)
    except sa.exc.ArgumentError:
        raise ValueError("must be a URL such as postgresql://user:password@host:5432/name") from None
    if url.drivername not in {"postgresql", "postgres", "postgresql+asyncpg"}:
        raise ValueError("must be a postgresql:// URL")
    if url.port is not None and not 0 < url.port <= LARGEST_PORT:
        raise ValueError("the port must be one from 1 to 65535")
    query = dict(url.query)
    if any(name.startswith("ssl") and name not in {"ssl", "sslmode"} for name in query):
        raise ValueError("certificates are set by PGSSLROOTCERT, PGSSLCERT and PGSSLKEY, not in the URL")
    if "sslmode" in query:  # libpq's name; asyncpg calls it ssl
        query["ssl"] = query.pop("sslmode")
    return url.set(drivername="postgresql+asyncpg", query=query)


def _provider_url(value: str) -> str:
    parts = split_url(value)
    if (
        parts is None
        or parts.scheme not in {"https", "http"}
        or parts.query
        or parts.fragment
        or parts.username
    ):
        raise ValueError("must be a URL such as https://api.anthropic.com")
    if parts.scheme == "http" and not is_loopback(parts):
        raise ValueError("must be https; plain http is for loopback addresses in development")
    return value.rstrip("/")


def split_url(url: str) -> SplitResult | None:
    """None unless it has a host, and a port only if there can be one."""
    try:
        parts = urlsplit(url)
        has_place = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if has_place else None


def is_loopback(url: SplitResult) -> bool:
    """Whether its host is this machine."""
    host = url.hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listening_host(value: str) -> str:
    try:
        value.encode("idna")  # as the socket does
    except UnicodeError:
        value = ""
    if not value:
        raise ValueError("must be an address of this machine, or its name")
    return value


def _json(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError("must be JSON") from None


def _optional_duration(value: object) -> object:
    return None if value == "off" else _duration(value)


def _nameservers(value: list[str]) -> list[str]:
    for text in value:
        host, _, port = (
            text.rpartition(":") if text.count(":") == 1 or text.startswith("[") else (text, "", "53")
        )
        try:
            ip_address(host.removeprefix("[").removesuffix("]"))
            is_port = 0 < int(port) <= LARGEST_PORT and text.count("[") == text.count("]")
        except ValueError:
            is_port = False
        if not is_port:
            raise ValueError("each must be an IP address, or address:port, or [address]:port")
    return value


def _host_names(value: list[str]) -> list[str]:
    judged = [judge_host(text) for text in value]
    if any(isinstance(name, UrlReason) for name in judged):
        raise ValueError("each must be a public host name, such as gateway.example.com")
    return [str(name) for name in judged]


def _origins(value: list[str]) -> list[str]:
    for text in value:
        parts = split_url(text)
        is_origin = parts is not None and parts.scheme in {"https", "http"} and "@" not in parts.netloc
        # Compared as it stands with what browsers send: anything else would silently never match.
        if parts is None or not is_origin or text != f"{parts.scheme}://{parts.netloc.lower()}":
            raise ValueError("each must be an origin as browsers send it, such as https://app.example.com")
    return value


def _nat64_prefixes(value: list[str]) -> list[str]:
    for text in value:
        try:
            length = IPv6Network(text).prefixlen
        except ValueError:
            length = 0
        if length not in NAT64_PREFIX_LENGTHS:
            raise ValueError("each must be an IPv6 prefix of 32, 40, 48, 56, 64 or 96 bits")
    return value


Duration = Annotated[timedelta, BeforeValidator(_duration)]
OptionalDuration = Annotated[timedelta | None, BeforeValidator(_optional_duration)]
Words = Annotated[list[str], NoDecode, BeforeValidator(_words)]
ListeningHost = Annotated[str, AfterValidator(_listening_host)]
HostNames = Annotated[Words, AfterValidator(_host_names)]
Nameservers = Annotated[Words, AfterValidator(_nameservers)]
Origins = Annotated[Words, AfterValidator(_origins)]
Nat64Prefixes = Annotated[Words, AfterValidator(_nat64_prefixes)]
DatabaseUrl = Annotated[sa.URL, BeforeValidator(_database_url)]
ProviderBaseUrl = Annotated[str, BeforeValidator(lambda value: _provider_url(str(value)))]
MessagePatternName = Literal[
    "cors_refused",
    "billing_problem",
    "spend_cap",
    "organization_disabled",
    "workspace_required",
    "model_missing",
]
# Read here rather than by pydantic-settings, which would not say which variable is wrong.
MessagePatterns = Annotated[dict[MessagePatternName, Words], NoDecode, BeforeValidator(_json)]
