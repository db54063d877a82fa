"""Provider URLs: policy and DNS together, for the form field and for saving."""

from dataclasses import dataclass
from typing import Protocol

from app.core.url_errors import DnsUnavailable, UrlRefused
from app.provider_url.url import ProviderURL
from app.rate_limits.service import RateLimiter, RateLimitKind

OK = "ok"
_ACCEPTED = "This URL can be used."


class HostGuard(Protocol):
    """Lets a host name through only if all its addresses may be connected to."""

    async def vet(self, host: str) -> object:
        """Raises UrlRefused or DnsUnavailable."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlCheck:
    """What came of checking a URL. Never names an address."""

    canonical_url: str | None
    reason: str
    message: str

    @property
    def is_accepted(self) -> bool:
        return self.canonical_url is not None


class ProviderUrlService:
    """Checks what an admin enters, before it is saved."""

    def __init__(self, guard: HostGuard, rate_limits: RateLimiter, *, default_messages_url: str) -> None:
        self._guard = guard
        self._rate_limits = rate_limits
        self._default_messages_url = default_messages_url

    async def check(self, organization_id: str, url: str | None) -> UrlCheck:
        """What saving this URL would say. Limited: without a limit it would be a DNS oracle.

        Raises:
            RateLimited, DatabaseUnavailable
        """
        await self._rate_limits.admit(organization_id, RateLimitKind.URL_CHECKS)
        if not url:
            return UrlCheck(canonical_url=self._default_messages_url, reason=OK, message=_ACCEPTED)
        try:
            accepted = ProviderURL(url)
            await self.vet(accepted)
        except UrlRefused as refusal:
            (field,) = refusal.errors
            return UrlCheck(canonical_url=None, reason=refusal.reason, message=field.message)
        except DnsUnavailable as unavailable:
            return UrlCheck(canonical_url=None, reason=unavailable.code, message=unavailable.detail)
        return UrlCheck(canonical_url=accepted.messages_url, reason=OK, message=_ACCEPTED)

    async def vet(self, url: ProviderURL) -> None:
        """Where does the name lead, right now? Asked again at every connection.

        Raises:
            UrlRefused: dns_no_records or dns_private_address.
            DnsUnavailable
        """
        await self._guard.vet(url.host)
