"""Finds out whether the identity provider's published documents fit the settings, for `byok doctor`."""

import asyncio
import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

import httpx

from app.core.loopback import is_loopback
from app.egress.json_download import DownloadRefused, download_json
from app.egress.jwk_set import JwkSetRefused, parse_jwk_set

_TIMEOUT_SECONDS = 5.0


class KeysProblem(StrEnum):
    """Why the JWKS has no usable key. The values complete the sentence "BYOK_AUTH__JWKS_URL ..."."""

    UNREACHABLE = "cannot be reached; check the URL, DNS and outgoing HTTPS"
    TIMEOUT = "does not respond before the timeout; check the URL and outgoing HTTPS"
    TLS = "has a certificate that is not trusted; set BYOK_AUTH__CA_FILE"
    STATUS = "does not respond with 200; check the URL"
    REDIRECT = "redirects, and redirects are not followed; set the URL that it redirects to"
    TOO_LARGE = "responds with more than 256 KiB; check the URL"
    ENCODED = "responds with a compressed body, although none is accepted"
    DISCOVERY_DOCUMENT = (
        "is a discovery document, not a JWKS; set it to the value of jwks_uri in that document"
    )
    NOT_A_JWKS = (
        'is not a JWKS, which is a JSON object with the member "keys" of at most 100 keys; check the URL'
    )
    NO_USABLE_KEY = "has no usable key; needed is a public key for RS256 (2048 to 8192 bits), ES256 or EdDSA"


class IssuerMatch(StrEnum):
    """How the issuer in the discovery document compares with the setting."""

    SAME = "same"
    SLASH = "slash"  # only a trailing slash differs
    DIFFERENT = "different"
    UNKNOWN = "unknown"  # there is no discovery document
    TEMPLATE = (
        "template"  # with a placeholder: the document is for the tokens of many tenants, with as many issuers
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerReport:
    """The result of the check. `jwks_uri_matches` has no value if the discovery document has no `jwks_uri`."""

    keys_problem: KeysProblem | None
    usable_keys: int
    issuer: IssuerMatch
    jwks_uri_matches: bool | None


async def inspect_issuer(http: httpx.AsyncClient, *, issuer: str, jwks_url: str) -> IssuerReport:
    """Fetch the JWKS and the discovery document."""
    problem, usable = await _inspect_keys(http, jwks_url)
    document = await _discovery_document(http, issuer)
    published = document.get("issuer")
    if not isinstance(published, str):
        match = IssuerMatch.UNKNOWN
    elif "{" in published:  # not a character of URLs
        match = IssuerMatch.TEMPLATE
    elif published == issuer:
        match = IssuerMatch.SAME
    else:
        is_slash = published.rstrip("/") == issuer.rstrip("/")
        match = IssuerMatch.SLASH if is_slash else IssuerMatch.DIFFERENT
    jwks_uri = document.get("jwks_uri")
    return IssuerReport(
        keys_problem=problem,
        usable_keys=usable,
        issuer=match,
        jwks_uri_matches=jwks_uri == jwks_url if isinstance(jwks_uri, str) else None,
    )


async def _inspect_keys(http: httpx.AsyncClient, url: str) -> tuple[KeysProblem | None, int]:
    content = await _download(http, url)
    if isinstance(content, KeysProblem):
        return content, 0
    try:
        usable = len(parse_jwk_set(content))
    except JwkSetRefused:
        is_discovery = "jwks_uri" in _json_object(content)
        return (KeysProblem.DISCOVERY_DOCUMENT if is_discovery else KeysProblem.NOT_A_JWKS), 0
    return (None if usable else KeysProblem.NO_USABLE_KEY), usable


async def _discovery_document(http: httpx.AsyncClient, issuer: str) -> dict[str, Any]:
    """The issuer's discovery document; empty if there is none."""
    for url in _discovery_urls(issuer):
        content = await _download(http, url)
        if isinstance(content, bytes) and (document := _json_object(content)):
            return document
    return {}


def _discovery_urls(issuer: str) -> Iterator[str]:
    """The places of OpenID Connect Discovery 1.0 and of RFC 8414."""
    try:
        parts = urlsplit(issuer)
    except ValueError:
        return
    host = parts.hostname or ""
    if not host or (parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host))):
        return
    yield f"{issuer.rstrip('/')}/.well-known/openid-configuration"
    path = parts.path.rstrip("/")
    yield f"{parts.scheme}://{parts.netloc}/.well-known/oauth-authorization-server{path}"


async def _download(http: httpx.AsyncClient, url: str) -> bytes | KeysProblem:
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            return await download_json(http, url, timeout_seconds=_TIMEOUT_SECONDS)
    except DownloadRefused as error:
        return KeysProblem[error.reason.upper()]
    except (TimeoutError, httpx.TimeoutException):
        return KeysProblem.TIMEOUT
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        return KeysProblem.TLS if _is_certificate_error(error) else KeysProblem.UNREACHABLE


def _is_certificate_error(error: BaseException) -> bool:
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, ssl.SSLCertVerificationError):
            return True
        link = link.__cause__ or link.__context__
    return False


def _json_object(content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
