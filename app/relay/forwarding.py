"""Sends a request on to its destination, with the key that pays. The key lives from here until the head is written."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.observability.metrics import RELAY_SECONDS
from app.observability.tracing import client_span
from app.relay.errors import (
    ADDRESS_REFUSED,
    PROVIDER_RESPONSE_REFUSED,
    PROVIDER_TIMEOUT,
    PROVIDER_UNREACHABLE,
    STREAM_INTERRUPTED,
    STREAM_TIMEOUT,
    RelayError,
)
from app.relay.headers import to_provider
from app.relay.intake.capacity import BodyBudget
from app.relay.key_reader import KeyReader
from app.relay.records import Destination, EndedBy
from app.relay.transport import (
    ProviderAddressRefused,
    ProviderClient,
    ProviderRequest,
    ProviderResponse,
    ProviderResponseRefused,
    ProviderTimeout,
    TransportError,
)


@dataclass(slots=True, kw_only=True)
class Incoming:
    """A request of a client that was read completely. `path` is relative to the API's version: `/messages`."""

    method: str
    path: str
    query: str
    headers: Sequence[tuple[bytes, bytes]] = field(repr=False)
    body: bytes | None = field(default=None, repr=False)
    budget: BodyBudget

    def take_body(self) -> bytes | None:
        """Return the body, and keep no reference to it."""
        body, self.body = self.body, None
        return body


class Forwarder:
    """Reads keys and opens requests to providers.

    Args:
        keys: reads the key of a destination.
        provider: the HTTP client.
        default_messages_url: the messages URL of the operator's endpoint, for keys without a base URL.
    """

    def __init__(self, keys: KeyReader, provider: ProviderClient, *, default_messages_url: str) -> None:
        self._keys = keys
        self._provider = provider
        self._default_messages_url = default_messages_url

    async def prepare(self, destination: Destination, incoming: Incoming) -> ProviderRequest:
        """Read the key and make the request, which takes the body.

        Raises:
            SecretMissing, SecretStoreUnavailable
        """
        started = time.perf_counter()
        key = await self._keys.read(destination)
        RELAY_SECONDS.labels("key").observe(time.perf_counter() - started)
        endpoint = destination.endpoint
        return ProviderRequest(
            method=incoming.method,
            url=self._url(destination, incoming),
            headers=to_provider(
                incoming.headers,
                key=key,
                auth_style=endpoint.auth_style,
                workspace_id=endpoint.workspace_id,
            ),
            body=incoming.take_body(),
            is_custom=endpoint.base_url is not None,
        )

    async def open(self, request: ProviderRequest, incoming: Incoming) -> ProviderResponse:
        """Send the request and wait for the provider's head. The memory of the body is free after that.

        Raises:
            TransportError
        """
        started = time.perf_counter()
        with client_span("relay.provider_request"):
            response = await self._provider.open(request)
        incoming.budget.release()
        RELAY_SECONDS.labels("head").observe(time.perf_counter() - started)
        return response

    def _url(self, destination: Destination, incoming: Incoming) -> str:
        endpoint = destination.endpoint
        messages_url = self._default_messages_url if endpoint.base_url is None else endpoint.messages_url
        base, query = messages_url.removesuffix("/messages"), incoming.query
        return f"{base}{incoming.path}" + (f"?{query}" if query else "")


def failure_of(error: TransportError, *, has_head: bool) -> tuple[EndedBy, RelayError]:
    """Who ended the request, and the error for its client."""
    match error:
        case ProviderAddressRefused():
            return EndedBy.REFUSED, RelayError(ADDRESS_REFUSED)
        case ProviderResponseRefused():
            return EndedBy.PROVIDER_ERROR, RelayError(PROVIDER_RESPONSE_REFUSED)
        case ProviderTimeout():
            return EndedBy.PROVIDER_SILENT, RelayError(STREAM_TIMEOUT if has_head else PROVIDER_TIMEOUT)
    return EndedBy.PROVIDER_CUT, RelayError(STREAM_INTERRUPTED if has_head else PROVIDER_UNREACHABLE)
