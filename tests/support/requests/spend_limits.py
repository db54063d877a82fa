"""Requests of spend limit tests: an admin manages limits, and an internal service makes reservations."""

from dataclasses import dataclass
from typing import Any

import httpx

from tests.support.tenant import MakeToken, Tenant

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
class SpendClients:
    """Clients of one organization: an admin and an internal service."""

    admin: Tenant
    service: Tenant

    @property
    def limits_path(self) -> str:
        return f"{self.admin.path}/spend-limits"

    @property
    def reservations_path(self) -> str:
        return f"{self.admin.path}/spend-reservations"

    async def create_limit(self, *, headers: Any = None, **fields: Any) -> dict[str, Any]:
        response = await self.admin.post(self.limits_path, json=MONTHLY | fields, headers=headers or {})
        assert response.status_code == 201, response.text
        limit: dict[str, Any] = response.json()
        return limit

    async def get_limit(self, limit: Any) -> dict[str, Any]:
        response = await self.admin.get(f"{self.limits_path}/{limit['id']}")
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    async def update_limit(self, limit: Any, *, headers: Any = None, **fields: Any) -> httpx.Response:
        return await self.admin.patch(f"{self.limits_path}/{limit['id']}", json=fields, headers=headers or {})

    async def request_reservation(
        self, amount: str | None = None, *, headers: Any = None, **fields: Any
    ) -> httpx.Response:
        body = fields if amount is None else {"amount": {"amount": amount, "currency": "USD"}} | fields
        return await self.service.post(self.reservations_path, json=body, headers=headers or {})

    async def create_reservation(self, amount: str | None = None, **fields: Any) -> dict[str, Any]:
        response = await self.request_reservation(amount, **fields)
        assert response.status_code == 201, response.text
        reservation: dict[str, Any] = response.json()
        return reservation

    async def release(self, reservation: Any) -> httpx.Response:
        return await self.service.request("DELETE", f"{self.reservations_path}/{reservation['id']}")

    async def switch_mode(self, mode: str) -> None:
        response = await self.admin.request(
            "PUT", f"{self.admin.path}/usage-mode", json={"mode": mode, "credential_id": None}
        )
        assert response.status_code == 200, response.text


def spend_clients_of(
    tenant: Tenant, make_token: MakeToken, http: httpx.AsyncClient | None = None
) -> SpendClients:
    http = http or tenant.http
    return SpendClients(
        admin=Tenant(http=http, organization=tenant.organization, token=tenant.token),
        service=Tenant(http=http, organization=tenant.organization, token=make_token("service")),
    )
