"""Downloads a document of the identity provider, with limits."""

import httpx

from app.egress.http_client import host_header

MAX_RESPONSE_BYTES = 256 * 1024


class DownloadRefused(Exception):
    """The response cannot be used. `reason` is a constant."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


async def download_json(http: httpx.AsyncClient, url: str, *, timeout_seconds: float) -> bytes:
    """The body of a 200.

    Raises:
        DownloadRefused: another status, a redirect, an encoded or a too large body.
        httpx.HTTPError, httpx.InvalidURL, OSError: there is no response.
    """
    response = await _opened(http, url, timeout_seconds)
    try:
        if response.status_code != httpx.codes.OK:
            raise DownloadRefused("redirect" if response.is_redirect else "status")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise DownloadRefused("encoded")
        content = bytearray()
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > MAX_RESPONSE_BYTES:
                raise DownloadRefused("too_large")
        return bytes(content)
    finally:
        await response.aclose()


async def _opened(http: httpx.AsyncClient, url: str, timeout_seconds: float) -> httpx.Response:
    try:
        request = http.build_request(
            "GET",
            url,
            # identity: the size of a compressed response is only known after decompression.
            headers={
                "host": host_header(url),
                "accept": "application/jwk-set+json, application/json",
                "accept-encoding": "identity",
            },
            timeout=timeout_seconds,
        )
        return await http.send(request, stream=True, follow_redirects=False)
    except UnicodeError:  # httpx decodes the A-labels of a redirect, although it does not follow it
        raise httpx.InvalidURL("a label of the host name is not valid") from None
