"""The relay on a real socket, in front of a scripted provider, and an organization that uses it."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import uvicorn

from app.api.http_limits import BoundedHttpProtocol
from app.core.services import Services
from app.main import create_app
from app.relay.service import Relay
from tests.support.provider.fake_anthropic import make_key
from tests.support.relay.scripted_provider import MODEL, ScriptedProvider
from tests.support.tenant import MakeToken, Tenant


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave Ctrl-C to the test run."""
        yield


@asynccontextmanager
async def listening(services: Services) -> AsyncIterator[str]:
    """Serve the application on loopback, as `byok serve` does; returns its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        create_app(nullcontext(services)),
        log_config=None,
        access_log=False,
        server_header=False,
        http=BoundedHttpProtocol,
        ws="none",
        timeout_graceful_shutdown=1,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


@dataclass(frozen=True, kw_only=True)
class RelayUser:
    """Sends requests to the relay as one organization, and reads what they cost."""

    admin: Tenant
    token: str
    services: Services
    provider: ScriptedProvider

    @property
    def organization(self) -> str:
        return self.admin.organization

    @property
    def relay(self) -> Relay:
        return self.services[Relay]

    def headers(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        return {"x-api-key": self.token, "content-type": "application/json", **(more or {})}

    async def send(
        self, body: Any = None, *, headers: Mapping[str, str] | None = None, path: str = "/v1/messages"
    ) -> httpx.Response:
        """Send a request for a message and wait for the whole response."""
        return await self.admin.http.post(
            f"/relay/anthropic{path}",
            content=body if isinstance(body, bytes) else json.dumps(request() if body is None else body),
            headers=self.headers(headers),
            timeout=30,
        )

    def stream(self, *, headers: Mapping[str, str] | None = None, **fields: Any) -> Any:
        """Open a streamed response."""
        return self.admin.http.stream(
            "POST",
            "/relay/anthropic/v1/messages",
            content=json.dumps(request(stream=True, **fields)),
            headers=self.headers(headers),
            timeout=30,
        )

    async def save_key(self, **fields: Any) -> dict[str, Any]:
        """Save a key and use it: the usage mode becomes `byo`."""
        credential = await self.admin.created(**fields)
        await self.use(credential["id"])
        return credential

    async def use(self, credential_id: str | None, mode: str = "byo") -> None:
        switched = await self.admin.request(
            "PUT", f"{self.admin.path}/usage-mode", json={"mode": mode, "credential_id": credential_id}
        )
        assert switched.status_code == 200, switched.text

    async def rotate(self, credential_id: str, **fields: Any) -> dict[str, Any]:
        body = {"api_key": make_key(), "activate": "when_valid", **fields}
        rotated = await self.admin.post(f"{self.admin.credentials}/{credential_id}/rotations", json=body)
        assert rotated.status_code == 201, rotated.text
        found: dict[str, Any] = rotated.json()
        return found

    async def events(self) -> list[dict[str, Any]]:
        """The usage events, after all ends are stored."""
        await self.relay.services.settler.settled()
        found = await self.admin.get(f"{self.admin.path}/usage-events")
        assert found.status_code == 200, found.text
        rows: list[dict[str, Any]] = found.json()["data"]
        return rows

    async def only_event(self) -> dict[str, Any]:
        (found,) = await self.events()
        return found

    async def create_limit(self, amount: str, **fields: Any) -> dict[str, Any]:
        body = {
            "name": "Budget",
            "amount": {"amount": amount, "currency": "USD"},
            "period": "month",
            "scope": {"usage_mode": "any"},
            "enforcement": "block",
            **fields,
        }
        created = await self.admin.post(f"{self.admin.path}/spend-limits", json=body)
        assert created.status_code == 201, created.text
        found: dict[str, Any] = created.json()
        return found

    async def limit(self, limit_id: str) -> dict[str, Any]:
        found: dict[str, Any] = (await self.admin.get(f"{self.admin.path}/spend-limits/{limit_id}")).json()
        return found


# Opens another instance over the same database, with other settings of the relay, for the same user.
WithSettings = Callable[..., AbstractAsyncContextManager[RelayUser]]


def request(**fields: Any) -> dict[str, Any]:
    """A request for a message."""
    return {
        "model": MODEL,
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "Hi"}],
        **fields,
    }


def make_user(
    http: httpx.AsyncClient, services: Services, provider: ScriptedProvider, make_token: MakeToken
) -> RelayUser:
    """A new organization, with one token for the relay."""
    organization = f"org_{uuid4().hex[:16]}"
    admin = Tenant(http=http, organization=organization, token=make_token("billing-admin", organization))
    token = make_token("relay", organization, scopes=["relay:messages"])
    return RelayUser(admin=admin, token=token, services=services, provider=provider)


def error_of(response: httpx.Response) -> tuple[int, str, str]:
    """Status, type and code of an error of the relay."""
    body = response.json()
    assert body["type"] == "error"
    return response.status_code, body["error"]["type"], body["error"]["details"]["error_code"]
