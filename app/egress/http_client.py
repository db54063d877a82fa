"""A plain HTTP client for egress: no proxies, redirects or cookies, and certificates are always verified."""

from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path

import httpx

from app.core.tls import shared_tls_context


def http_client(*, ca_file: Path | None = None) -> httpx.AsyncClient:
    """Create the client.

    Args:
        ca_file: PEM certificates that are trusted in addition to the public roots.
    """
    return httpx.AsyncClient(
        verify=shared_tls_context(ca_file),
        trust_env=False,  # a proxy from the environment would receive the key
        follow_redirects=False,  # httpx forwards x-api-key to other origins
        http1=True,
        http2=False,
        limits=httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=30),
        timeout=httpx.Timeout(15.0, connect=5.0),
        cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
    )


def host_header(url: str) -> str:
    """The header `Host` of a request to the URL.

    Set it, because httpx otherwise decodes the host name, and raises for A-labels beside labels such as `r3---sn`, which
    exist and which the URL policy allows.
    """
    return httpx.URL(url).netloc.decode("ascii")
