"""Requests of statement tests: set subscriptions and endpoint counts, get and close statements."""

from typing import Any

import httpx

from app.auth.principal import Scope
from app.billing.month import BillingMonth
from app.core.organizations import ANY_ORGANIZATION
from tests.support.tenant import MakeToken, Tenant


def usd(amount: str) -> dict[str, str]:
    return {"amount": amount, "currency": "USD"}


def subscription_body(*, fee: str = "99.00", included: int = 2, overage: str = "10.00") -> dict[str, Any]:
    return {
        "plan": "production",
        "monthly_fee": usd(fee),
        "included_endpoints": included,
        "endpoint_overage_fee": usd(overage),
    }


def billing_service_of(tenant: Tenant, make_token: MakeToken) -> Tenant:
    """A client of the billing service, acting for that organization."""
    token = make_token("service", ANY_ORGANIZATION, scopes={Scope.BILLING_READ, Scope.BILLING_WRITE})
    return Tenant(http=tenant.http, organization=tenant.organization, token=token)


async def subscribe(service: Tenant, **terms: Any) -> httpx.Response:
    response = await service.request("PUT", f"{service.path}/subscription", json=subscription_body(**terms))
    assert response.status_code == 200, response.text
    return response


async def set_endpoint_count(service: Tenant, day: str, endpoints: int) -> httpx.Response:
    return await service.request(
        "PUT", f"{service.path}/endpoint-counts/{day}", json={"endpoints": endpoints}
    )


async def request_close(service: Tenant, month: BillingMonth) -> httpx.Response:
    return await service.post(f"{service.path}/billing-statements/{month}/close")


async def close_statement(service: Tenant, month: BillingMonth) -> dict[str, Any]:
    response = await request_close(service, month)
    assert response.status_code == 200, response.text
    statement: dict[str, Any] = response.json()
    assert statement["status"] == "closed"
    return statement


async def statement_of(tenant: Tenant, month: BillingMonth) -> dict[str, Any]:
    response = await tenant.get(f"{tenant.path}/billing-statements/{month}")
    assert response.status_code == 200, response.text
    statement: dict[str, Any] = response.json()
    return statement


def summarize_lines(statement: dict[str, Any]) -> list[tuple[str, str | None, str, str | None]]:
    """Type, model, amount and adjusted month of each line."""
    return [
        (line["type"], line["model"], line["amount"]["amount"], line["adjusts_month"])
        for line in statement["lines"]
    ]
