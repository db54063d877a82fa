"""An organization with an HTTP client and a token."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from tests.support.provider.fake_anthropic import make_key

MakeToken = Callable[..., str]


@dataclass(frozen=True, kw_only=True)
class Tenant:
    """Sends requests as the admin of one organization, as the billing page does."""

    http: httpx.AsyncClient
    organization: str
    token: str

    @property
    def path(self) -> str:
        return f"/v1/organizations/{self.organization}"

    @property
    def credentials(self) -> str:
        return f"{self.path}/provider-credentials"

    async def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}"} | options.pop("headers", {})
        return await self.http.request(method, url, headers=headers, timeout=30, **options)

    async def get(self, url: str, **options: Any) -> httpx.Response:
        return await self.request("GET", url, **options)

    async def post(self, url: str, **options: Any) -> httpx.Response:
        return await self.request("POST", url, **options)

    async def patch(self, url: str, **options: Any) -> httpx.Response:
        return await self.request("PATCH", url, **options)

    async def create(self, behaviour: str = "valid", *, headers: Any = None, **fields: Any) -> httpx.Response:
        """Save a key for which the fake provider shows the given behaviour."""
        body = {"label": "Acme production", "api_key": make_key(behaviour)} | fields
        return await self.post(self.credentials, json=body, headers=headers or {})

    async def created(self, behaviour: str = "valid", **fields: Any) -> dict[str, Any]:
        response = await self.create(behaviour, **fields)
        assert response.status_code == 201, response.text
        credential: dict[str, Any] = response.json()
        return credential


MakeTenant = Callable[..., Tenant]
