"""The way to the fake Vault without socket or threads: for runs that ask it thousands of times.

What hvac builds and how answers are read is the service's own code; only the wire is left out. The wire
can tear: before the request got through, or after it, with the answer lost.
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

from app.secret_store.vault.client import Question, VaultServer
from app.secret_store.vault.responses import Answer
from tests.fake_vault import FakeVault
from tests.fake_vault_engines import Asked


class Lost(StrEnum):
    """What a torn connection lost."""

    REQUEST = "request"
    ANSWER = "answer"


class Wire(Protocol):
    """What the client asks of urllib3's pool."""

    def request(
        self, method: str, target: str, /, *, body: bytes | None, headers: Mapping[str, str], **options: Any
    ) -> urllib3.HTTPResponse: ...


class WiredVault(VaultServer):
    """Asks at once, over a wire of the test's own."""

    def __init__(self, wire: Wire) -> None:
        super().__init__("http://vault.test")
        self._connections = wire  # type: ignore[assignment]  # does of a pool what the client asks of one

    async def ask(self, client: hvac.Client, question: Question) -> Answer:
        answer: Answer = question(client)
        return answer

    def close(self) -> None:
        """Nothing is kept open."""


class DirectWire:
    """Asks the fake by calling it."""

    def __init__(self, fake: FakeVault) -> None:
        self.sent = 0
        self._fake = fake
        self._tears: dict[int, Lost] = {}

    def tear(self, at: int, lost: Lost) -> None:
        """From now on the at-th request meets a connection that breaks. The client sends it once more."""
        self.sent = 0
        self._tears = {at: lost}

    def mend(self) -> None:
        self._tears = {}

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
        lost = self._tears.get(self.sent)
        if lost is Lost.REQUEST:
            raise ProtocolError
        url = urlsplit(target)
        query = parse_qs(url.query)
        response = self._fake.respond(
            Asked(
                method="LIST" if "list" in query else method,
                path=url.path.removeprefix("/v1/"),
                token=headers.get("X-Vault-Token"),
                namespace=headers.get("X-Vault-Namespace"),
                body=json.loads(body) if body else {},
                version=int(query.get("version", ["0"])[0]),
                wrap_ttl=headers.get("X-Vault-Wrap-TTL"),
            )
        )
        if lost is Lost.ANSWER:
            raise ProtocolError
        return urllib3.HTTPResponse(
            BytesIO(bytes(response.body)), status=response.status_code, preload_content=False
        )
