"""Checks provider URLs by URL policy and DNS."""

from dataclasses import dataclass
from typing import Protocol

from app.core.keys.key_lookalike import looks_like_key
from app.core.url_errors import DnsUnavailable, UrlRefused
from app.provider_url.auth_style import ANTHROPIC_HOST, default_auth_style
from app.provider_url.endpoint import AuthStyle
from app.provider_url.url import ProviderURL
from app.rate_limits.service import RateLimiter, RateLimitKind

OK = "ok"
LOOKS_LIKE_KEY = "looks_like_key"
_ACCEPTED_MESSAGE = "This URL can be used."
_CONTAINS_KEY_MESSAGE = "Must not contain a key or a part of one. Send the key only in `api_key`."


class HostGuard(Protocol):
    """Accepts a host name only if connections to all its addresses are allowed."""

    async def resolve_and_validate(self, host: str) -> object:
        """Raises UrlRefused or DnsUnavailable."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlCheck:
    """The result of a URL check. Never contains an address. A rejected URL has no auth style."""

    canonical_url: str | None
    reason: str
    message: str
    auth_style: AuthStyle | None = None
    is_anthropic: bool | None = None

    @property
    def is_accepted(self) -> bool:
        return self.canonical_url is not None


class ProviderUrlService:
    """Checks URLs that an admin enters, before they are saved."""

    def __init__(self, guard: HostGuard, rate_limits: RateLimiter, *, default_messages_url: str) -> None:
        self._guard = guard
        self._rate_limits = rate_limits
        self._default_messages_url = default_messages_url

    async def check(self, organization_id: str, url: str | None) -> UrlCheck:
        """Check whether this URL can be saved. An empty URL means the default endpoint.

        Rate limited, because the check would otherwise be a DNS oracle.

        Raises:
            RateLimited, DatabaseUnavailable
        """
        await self._rate_limits.admit(organization_id, RateLimitKind.URL_CHECKS)
        if not url:
            return UrlCheck(
                canonical_url=self._default_messages_url,
                reason=OK,
                message=_ACCEPTED_MESSAGE,
                auth_style=AuthStyle.X_API_KEY,
                is_anthropic=True,  # validations treat the operator's default endpoint as Anthropic's
            )
        try:
            accepted = ProviderURL(url)
            if looks_like_key(accepted):
                return UrlCheck(canonical_url=None, reason=LOOKS_LIKE_KEY, message=_CONTAINS_KEY_MESSAGE)
            await self.resolve_and_validate(accepted)
        except UrlRefused as error:
            (field,) = error.errors
            return UrlCheck(canonical_url=None, reason=error.reason, message=field.message)
        except DnsUnavailable as error:
            return UrlCheck(canonical_url=None, reason=error.code, message=error.detail)
        return UrlCheck(
            canonical_url=accepted.messages_url,
            reason=OK,
            message=_ACCEPTED_MESSAGE,
            auth_style=default_auth_style(accepted.host),
            is_anthropic=accepted.host == ANTHROPIC_HOST,
        )

    async def resolve_and_validate(self, url: ProviderURL) -> None:
        """Check that the host name resolves to allowed addresses now. Every later connection checks this again.

        Raises:
            UrlRefused: dns_no_records or dns_private_address.
            DnsUnavailable
        """
        await self._guard.resolve_and_validate(url.host)
