"""The resolver behind aiohttp's connector: every new connection resolves and validates the host again."""

import socket
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult

from app.core.url_errors import DnsUnavailable, UrlReason, UrlRefused
from app.egress.exceptions import DestinationRefused, NameLookupFailed, NameNotFound
from app.egress.network import HTTPS_PORT, interleave_families
from app.egress.resolver import Address, AddressGuard
from app.egress.streaming.connections import Route, direct
from app.provider_url.host_name import validate_host

_MAX_ADDRESSES: Final = 6


class PinnedResolver(AbstractResolver):
    """Returns only validated addresses, for port 443 only. aiohttp connects to exactly what it returns.

    Args:
        guard: resolves and validates the host.
        route: tests replace it, because they reach only loopback.
    """

    def __init__(self, guard: AddressGuard, *, route: Route = direct) -> None:
        self._guard = guard
        self._route = route

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Resolve a host name.

        Raises:
            DestinationRefused, NameNotFound, NameLookupFailed
        """
        del family  # both families are tried
        if port != HTTPS_PORT:
            raise DestinationRefused(UrlReason.PORT_NOT_ALLOWED)
        if validate_host(host) != host:
            raise DestinationRefused(UrlReason.HOST_INVALID)
        try:
            addresses = await self._guard.resolve_and_validate(host)
        except (TimeoutError, DnsUnavailable):
            raise NameLookupFailed from None
        except UrlRefused as refusal:
            if refusal.reason is UrlReason.DNS_NO_RECORDS:
                raise NameNotFound from None
            raise DestinationRefused(refusal.reason) from None
        return [
            self._result(host, address, port) for address in interleave_families(addresses)[:_MAX_ADDRESSES]
        ]

    async def close(self) -> None:
        """Nothing is open between lookups."""

    def _result(self, host: str, address: Address, port: int) -> ResolveResult:
        target, target_port = self._route(str(address), port)
        return ResolveResult(
            hostname=host,
            host=target,
            port=target_port,
            family=socket.AF_INET if address.version == 4 else socket.AF_INET6,  # noqa: PLR2004  # IP versions
            proto=socket.IPPROTO_TCP,
            flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
        )
