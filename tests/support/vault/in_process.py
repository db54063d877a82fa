"""A fake Vault without sockets or threads, for tests that send thousands of requests.

Requests are built and responses are read by the service's own code; only the network is replaced. A
connection can break before the request arrives, or after it, so that the response is lost.
"""

import json
from collections.abc import Mapping
from enum import StrEnum
from io import BytesIO
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

import hvac
import urllib3
from urllib3.exceptions import ProtocolError

from app.secret_store.vault.client import VaultRequest, VaultServer
from app.secret_store.vault.responses import VaultResponse
from tests.support.vault.fake import FakeVault
from tests.support.vault.fake_engines import ReceivedRequest


class LostMessage(StrEnum):
    """The message that was lost when a connection broke."""

    REQUEST = "request"
    RESPONSE = "response"


class ConnectionPool(Protocol):
    """The part of urllib3's pool that the client uses."""

    def request(
        self, method: str, target: str, /, *, body: bytes | None, headers: Mapping[str, str], **options: Any
    ) -> urllib3.HTTPResponse: ...


class InProcessVaultServer(VaultServer):
    """Sends requests without threads, over the test's connection pool."""

    def __init__(self, wire: ConnectionPool) -> None:
        super().__init__("http://vault.test")
        self._connections = wire  # type: ignore[assignment]  # has the part of a pool that the client uses

    async def send(self, client: hvac.Client, request: VaultRequest) -> VaultResponse:
        response: VaultResponse = request(client)
        return response

    def close(self) -> None:
        """Do nothing, because the pool belongs to the test."""


class InProcessWire:
    """A connection pool that calls the fake directly."""

    def __init__(self, fake: FakeVault) -> None:
        self.sent = 0
        self._fake = fake
        self._breaks: dict[int, LostMessage] = {}

    def break_connection(self, at: int, lost: LostMessage) -> None:
        """Break the connection of the at-th request from now on. The client sends that request once more."""
        self.sent = 0
        self._breaks = {at: lost}

    def restore(self) -> None:
        """Break no more connections."""
        self._breaks = {}

    def request(
        self,
        method: str,
        target: str,
        /,
        *,
        body: bytes | None,
        headers: Mapping[str, str],
        **_options: Any,
    ) -> urllib3.HTTPResponse:
        self.sent += 1
        lost = self._breaks.get(self.sent)
        if lost is LostMessage.REQUEST:
            raise ProtocolError
        url = urlsplit(target)
        query = parse_qs(url.query)
        response = self._fake.respond(
            ReceivedRequest(
                method="LIST" if "list" in query else method,
                path=url.path.removeprefix("/v1/"),
                token=headers.get("X-Vault-Token"),
                namespace=headers.get("X-Vault-Namespace"),
                body=json.loads(body) if body else {},
                version=int(query.get("version", ["0"])[0]),
                wrap_ttl=headers.get("X-Vault-Wrap-TTL"),
            )
        )
        if lost is LostMessage.RESPONSE:
            raise ProtocolError
        return urllib3.HTTPResponse(
            BytesIO(bytes(response.body)), status=response.status_code, preload_content=False
        )
