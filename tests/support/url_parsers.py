"""Compares how other parsers read a URL. A difference would be a way to bypass the URL policy."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import httpcore
import httpx
from pydantic import AnyHttpUrl, TypeAdapter, ValidationError

from app.provider_url.url import ProviderURL

_WHATWG: TypeAdapter[AnyHttpUrl] = TypeAdapter(AnyHttpUrl)


def parser_differences(typed: str, url: ProviderURL) -> Iterator[str]:
    """Yield a sentence for each parser that reads `url`, the canonical form of `typed`, differently."""
    stored = str(url)
    expected = ("https", url.host, 443, stored.removeprefix(f"https://{url.host}"))
    readings = {
        "httpx": _httpx(stored),
        "httpcore": _httpcore(stored),
        "urllib": _urllib(stored),
        "pydantic": _pydantic(stored),
    }
    for parser, reading in readings.items():
        if reading != expected:
            yield f"{parser} reads {reading}"
    if str(httpx.URL(stored)) != stored:
        yield "httpx serializes it differently"
    if ProviderURL(stored) != stored:
        yield "its canonical form is another one"
    typed_reading = _pydantic(typed)
    if typed_reading is not None and typed_reading[:3] != expected[:3]:
        yield f"pydantic reads {typed_reading} in the text as typed"


_Reading = tuple[str, str | None, int | None, str | None]


def _httpx(text: str) -> _Reading:
    url = httpx.URL(text)
    return url.scheme, url.raw_host.decode(), url.port or 443, url.raw_path.decode()


def _httpcore(text: str) -> _Reading:
    url = httpcore.URL(text)
    return url.scheme.decode(), url.host.decode(), url.port or 443, url.target.decode()


def _urllib(text: str) -> _Reading:
    parts = urlsplit(text)
    return parts.scheme, parts.hostname, parts.port or 443, parts.path


def _pydantic(text: str) -> _Reading | None:
    try:
        url = _WHATWG.validate_python(text)
    except ValidationError:
        return None
    host = (url.host or "").removesuffix(".")
    return url.scheme, host, url.port, url.path
