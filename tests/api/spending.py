"""What tests of spend limits share: an admin who sets limits and a service that reserves."""

from dataclasses import dataclass
from typing import Any

import httpx

from tests.conftest import MakeToken, Tenant

MONTHLY: dict[str, Any] = {
    "name": "Monthly budget",
    "amount": {"amount": "10.00", "currency": "USD"},
    "period": "month",
}


def usd_of(money: Any) -> str:
    assert money["currency"] == "USD"
    amount: str = money["amount"]
    return amount


@dataclass(frozen=True, kw_only=True)
class Spenders:
    """An organization's admin, and an internal service."""

    admin: Tenant
    service: Tenant

    @property
    def limits(self) -> str:
        return f"{self.admin.path}/spend-limits"

    @property
    def reservations(self) -> str:
        return f"{self.admin.path}/spend-reservations"

    async def set_limit(self, *, headers: Any = None, **fields: Any) -> dict[str, Any]:
        response = await self.admin.post(self.limits, json=MONTHLY | fields, headers=headers or {})
        assert response.status_code == 201, response.text
        limit: dict[str, Any] = response.json()
        return limit

    async def limit(self, limit: Any) -> dict[str, Any]:
        response = await self.admin.get(f"{self.limits}/{limit['id']}")
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    async def change(self, limit: Any, *, headers: Any = None, **fields: Any) -> httpx.Response:
        return await self.admin.patch(f"{self.limits}/{limit['id']}", json=fields, headers=headers or {})

    async def reserve(
        self, amount: str | None = None, *, headers: Any = None, **fields: Any
    ) -> httpx.Response:
        body = fields if amount is None else {"amount": {"amount": amount, "currency": "USD"}} | fields
        return await self.service.post(self.reservations, json=body, headers=headers or {})

    async def reserved(self, amount: str | None = None, **fields: Any) -> dict[str, Any]:
        response = await self.reserve(amount, **fields)
        assert response.status_code == 201, response.text
        reservation: dict[str, Any] = response.json()
        return reservation

    async def release(self, reservation: Any) -> httpx.Response:
        return await self.service.request("DELETE", f"{self.reservations}/{reservation['id']}")

    async def switch(self, mode: str) -> None:
        response = await self.admin.request(
            "PUT", f"{self.admin.path}/usage-mode", json={"mode": mode, "credential_id": None}
        )
        assert response.status_code == 200, response.text


def spenders_of(tenant: Tenant, make_token: MakeToken, http: httpx.AsyncClient | None = None) -> Spenders:
    http = http or tenant.http
    return Spenders(
        admin=Tenant(http=http, organization=tenant.organization, token=tenant.token),
        service=Tenant(http=http, organization=tenant.organization, token=make_token("service")),
    )
