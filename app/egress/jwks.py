"""The identity provider's signing keys: a JWKS, fetched with bounds, kept while it may be trusted.

A set is fetched anew in the background before its lifetime ends, so nobody waits; past its lifetime
a request waits for the new one. While the issuer is down the last set works on, up to a limit.
"""

import asyncio
import time
from collections.abc import Callable
from ipaddress import ip_address

import httpx
import structlog

from app.auth.signing_keys import VerifyingKey
from app.core.errors import IdentityProviderUnavailable
from app.egress.jwk_set import JwkSetRefused, TrustedKey, parse_jwk_set

LARGEST_ANSWER = 256 * 1024
UNKNOWN_KID_SECONDS = 30.0  # so that made-up key names cannot hammer the issuer
RETRY_SECONDS = 5.0
OUTAGE_SECONDS = 30.0  # so long after a failure retries hold nobody up

_REFRESH_AHEAD = 0.8
_log = structlog.get_logger(__name__)


class _FetchFailed(Exception):
    """No usable answer; `reason` is one of our constants, for the log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class JwksClient:
    """The keys at one URL, as a key source of the authenticator.

    Args:
        http: a client of ours; what its defaults allow beyond the bounds here is not used.
        url: https, or http to a loopback address where `allow_loopback_http` says development.
        lifetime_seconds: how long a set is taken for current.
        max_stale_seconds: how long it works on while the issuer is down.
        timeout_seconds: bound of one fetch, from connecting to the last byte.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        url: str,
        *,
        lifetime_seconds: float = 600,
        max_stale_seconds: float = 3600,
        timeout_seconds: float = 5,
        allow_loopback_http: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._http = http
        self._url = _checked(url, allow_loopback_http=allow_loopback_http)
        self._lifetime = lifetime_seconds
        self._max_stale = max(max_stale_seconds, lifetime_seconds)
        self._timeout = timeout_seconds
        self._clock = clock
        self._keys: tuple[TrustedKey, ...] = ()
        self._generation = 0
        self._flight: asyncio.Task[None] | None = None
        never = float("-inf")
        self._asked_at = self._failed_at = never
        self._due_at = self._current_until = self._usable_until = never

    @property
    def generation(self) -> int | None:
        now = self._clock()
        return None if now >= self._due_at or self._must_wait(now) else self._generation

    async def key_for(self, kid: str | None, algorithm: str) -> VerifyingKey | None:
        now = self._clock()
        if now >= self._due_at:
            self._start()
        if self._must_wait(now):
            await self._landing()
        if self._clock() >= self._usable_until:
            raise IdentityProviderUnavailable
        found = self._find(kid, algorithm)
        if found is None and kid is not None:
            if self._clock() >= self._asked_at + UNKNOWN_KID_SECONDS:
                self._start()
            await self._landing()
            found = self._find(kid, algorithm)
        return found

    async def close(self) -> None:
        """End a fetch that is under way."""
        if self._flight is not None:
            self._flight.cancel()
            await asyncio.wait([self._flight])

    def _find(self, kid: str | None, algorithm: str) -> VerifyingKey | None:
        """The one key that fits; where two do, none is trusted rather than one guessed."""
        fitting = [it.key for it in self._keys if it.algorithm == algorithm and kid in {None, it.kid}]
        return fitting[0] if len(fitting) == 1 else None

    def _must_wait(self, now: float) -> bool:
        """Whether the set at hand is not good enough to answer with while another is on its way."""
        if now < self._current_until:
            return False
        return now >= self._usable_until or now >= self._failed_at + OUTAGE_SECONDS

    def _start(self) -> None:
        """Fetch, unless a fetch is under way."""
        if self._flight is None or self._flight.done():
            self._asked_at = self._clock()
            self._due_at = max(self._due_at, self._asked_at + RETRY_SECONDS)
            self._flight = asyncio.create_task(self._refresh(self._asked_at))

    async def _landing(self) -> None:
        """Wait for a fetch under way; who gives up waiting does not end it for the others."""
        if self._flight is not None:
            await asyncio.shield(self._flight)

    async def _refresh(self, asked_at: float) -> None:
        try:
            keys = await self._fetch()
        except _FetchFailed as error:
            self._failed_at = self._clock()
            self._due_at = max(self._due_at, self._failed_at + RETRY_SECONDS)
            _log.warning("jwks.fetch_failed", reason=error.reason)
            return
        if keys != self._keys:
            self._keys = keys
            self._generation += 1
        self._due_at = asked_at + self._lifetime * _REFRESH_AHEAD
        self._current_until = asked_at + self._lifetime
        self._usable_until = asked_at + self._max_stale

    async def _fetch(self) -> tuple[TrustedKey, ...]:
        try:
            async with asyncio.timeout(self._timeout):
                return parse_jwk_set(await self._download())
        except JwkSetRefused:
            reason = "malformed"
        except (TimeoutError, httpx.TimeoutException):
            reason = "timeout"
        except (httpx.HTTPError, httpx.InvalidURL, OSError):
            reason = "unreachable"
        raise _FetchFailed(reason)

    async def _download(self) -> bytes:
        request = self._http.build_request(
            "GET",
            self._url,
            # identity: a compressed answer would be counted only after it has been blown up.
            headers={"accept": "application/jwk-set+json, application/json", "accept-encoding": "identity"},
            timeout=self._timeout,
        )
        response = await self._http.send(request, stream=True, follow_redirects=False)
        try:
            if response.status_code != httpx.codes.OK:
                raise _FetchFailed("redirect" if response.is_redirect else "status")
            if response.headers.get("content-encoding", "identity") != "identity":
                raise _FetchFailed("encoded")
            content = bytearray()
            async for chunk in response.aiter_raw():
                content += chunk
                if len(content) > LARGEST_ANSWER:
                    raise _FetchFailed("too_large")
            return bytes(content)
        finally:
            await response.aclose()


def _checked(url: str, *, allow_loopback_http: bool) -> str:
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        raise ValueError("the JWKS URL is not a URL") from None
    if not parts.host or parts.userinfo or parts.fragment:
        raise ValueError("the JWKS URL needs a host, and no user, password or fragment")
    if parts.scheme != "https" and not (
        parts.scheme == "http" and allow_loopback_http and _is_loopback(parts.host)
    ):
        raise ValueError("the JWKS URL must be https; http is for loopback addresses in development")
    return url


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
