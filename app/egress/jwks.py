"""The identity provider's signing keys: a JWKS that is fetched with limits and cached.

A set is refreshed in the background before its lifetime ends, so requests do not wait. After its lifetime a request
waits for the new set. While the issuer is down, the last set stays usable up to a limit.
"""

import asyncio
import time
from collections.abc import Callable

import httpx
import structlog

from app.auth.signing_keys import VerifyingKey
from app.core.errors import IdentityProviderUnavailable
from app.core.loopback import is_loopback
from app.egress.json_download import DownloadRefused, download_json
from app.egress.jwk_set import JwkSetRefused, TrustedKey, parse_jwk_set

UNKNOWN_KID_SECONDS = 30.0  # minimum interval, so that tokens with random key ids cannot flood the issuer
RETRY_SECONDS = 5.0
OUTAGE_SECONDS = 30.0  # after a failure, requests do not wait for retries for this long

_REFRESH_AHEAD = 0.8
_log = structlog.get_logger("byok.egress")


class _FetchFailed(Exception):
    """The fetch failed. `reason` is a constant for the log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class JwksClient:
    """The authenticator's source of verification keys, fetched from one URL.

    Args:
        http: the client for the fetch. The limits here apply in addition to its own.
        url: an https URL. If `allow_loopback_http` is set (for development), also http to a loopback address.
        lifetime_seconds: how long a set counts as fresh.
        max_stale_seconds: how long a set stays usable while the issuer is down.
        timeout_seconds: the limit for one fetch, from connecting to the last byte.
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
        self._url = _validated_url(url, allow_loopback_http=allow_loopback_http)
        self._lifetime = lifetime_seconds
        self._max_stale = max(max_stale_seconds, lifetime_seconds)
        self._timeout = timeout_seconds
        self._clock = clock
        self._keys: tuple[TrustedKey, ...] = ()
        self._generation = 0
        self._fetch_task: asyncio.Task[None] | None = None
        never = float("-inf")
        self._fetch_started_at = self._failed_at = never
        self._due_at = self._fresh_until = self._usable_until = never

    @property
    def generation(self) -> int | None:
        now = self._clock()
        return None if now >= self._due_at or self._must_wait(now) else self._generation

    async def key_for(self, kid: str | None, algorithm: str) -> VerifyingKey | None:
        now = self._clock()
        if now >= self._due_at:
            self._start_fetch()
        if self._must_wait(now):
            await self._wait_for_fetch()
        if self._clock() >= self._usable_until:
            raise IdentityProviderUnavailable
        found = self._find(kid, algorithm)
        if found is None and kid is not None:
            if self._clock() >= self._fetch_started_at + UNKNOWN_KID_SECONDS:
                self._start_fetch()
            await self._wait_for_fetch()
            found = self._find(kid, algorithm)
        return found

    async def close(self) -> None:
        """Cancel a running fetch."""
        if self._fetch_task is not None:
            self._fetch_task.cancel()
            await asyncio.wait([self._fetch_task])

    def _find(self, kid: str | None, algorithm: str) -> VerifyingKey | None:
        """Return the only key that matches. If several keys match, return `None` instead of guessing."""
        matching = [it.key for it in self._keys if it.algorithm == algorithm and kid in {None, it.kid}]
        return matching[0] if len(matching) == 1 else None

    def _must_wait(self, now: float) -> bool:
        """Whether a request must wait for a running fetch, because the current set is too old."""
        if now < self._fresh_until:
            return False
        return now >= self._usable_until or now >= self._failed_at + OUTAGE_SECONDS

    def _start_fetch(self) -> None:
        """Start a fetch, unless one is running."""
        if self._fetch_task is None or self._fetch_task.done():
            self._fetch_started_at = self._clock()
            self._due_at = max(self._due_at, self._fetch_started_at + RETRY_SECONDS)
            self._fetch_task = asyncio.create_task(self._refresh(self._fetch_started_at))

    async def _wait_for_fetch(self) -> None:
        """Wait for a running fetch. Cancelling one waiter does not cancel the fetch for the others."""
        if self._fetch_task is not None:
            await asyncio.shield(self._fetch_task)

    async def _refresh(self, started_at: float) -> None:
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
        self._due_at = started_at + self._lifetime * _REFRESH_AHEAD
        self._fresh_until = started_at + self._lifetime
        self._usable_until = started_at + self._max_stale

    async def _fetch(self) -> tuple[TrustedKey, ...]:
        try:
            async with asyncio.timeout(self._timeout):
                return parse_jwk_set(
                    await download_json(self._http, self._url, timeout_seconds=self._timeout)
                )
        except JwkSetRefused:
            reason = "malformed"
        except (TimeoutError, httpx.TimeoutException):
            reason = "timeout"
        except (httpx.HTTPError, httpx.InvalidURL, OSError):
            reason = "unreachable"
        except DownloadRefused as error:
            reason = error.reason
        raise _FetchFailed(reason)


def _validated_url(url: str, *, allow_loopback_http: bool) -> str:
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        raise ValueError("the JWKS URL is not a valid URL") from None
    host = parts.raw_host.decode("ascii")
    if not host or parts.userinfo or parts.fragment:
        raise ValueError("the JWKS URL must have a host and must not have a user, password or fragment")
    if parts.scheme != "https" and not (parts.scheme == "http" and allow_loopback_http and is_loopback(host)):
        raise ValueError(
            "the JWKS URL must use https; http is allowed only for loopback addresses in development"
        )
    return url
