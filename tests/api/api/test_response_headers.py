"""ETag and Location: the OpenAPI document declares them for exactly the operations that send them."""

import re
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from app.auth.principal import Scope
from app.core.organizations import ANY_ORGANIZATION
from tests.support.openapi import openapi_document
from tests.support.provider.fake_anthropic import make_key
from tests.support.tenant import MakeToken, Tenant
from tests.support.vault.lease_service import LeaseApi

HEADERS = frozenset({"ETag", "Location"})
DOCUMENT = openapi_document()
USD = {"amount": "1.00", "currency": "USD"}

# Operation and status of a successful response → its headers, without those that this test does not compare.
Sent = dict[tuple[str, str], set[frozenset[str]]]


def operation_id_of(response: httpx.Response) -> str:
    """The operation of a response. A path without parameters wins over a template that also matches."""
    for path, item in sorted(DOCUMENT["paths"].items(), key=lambda it: it[0].count("{")):
        pattern = re.sub(r"\{\w+\}", "[^/]+", path)
        if re.fullmatch(pattern, response.request.url.path) and response.request.method.lower() in item:
            return str(item[response.request.method.lower()]["operationId"])
    raise LookupError(response.request.url.path)


@dataclass(frozen=True, kw_only=True)
class RecordingTenant(Tenant):
    """A tenant whose requests must succeed, and which records the headers of their responses."""

    sent: Sent = field(default_factory=lambda: defaultdict(set))

    async def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        response = await super().request(method, url, **options)
        assert response.is_success, response.text
        found = frozenset(name for name in HEADERS if name in response.headers)
        self.sent[operation_id_of(response), str(response.status_code)].add(found)
        return response


@dataclass(frozen=True, kw_only=True)
class Clients:
    """Clients of one organization that record into the same place.

    `rotating` calls a service whose provider can leave a rotation pending. `admin`, `service` and `billing` call a
    service that can create leases and accepts every host name.
    """

    rotating: RecordingTenant
    admin: RecordingTenant
    service: RecordingTenant
    billing: RecordingTenant


@pytest.fixture
def clients(tenant: Tenant, lease_api: LeaseApi, make_token: MakeToken) -> Clients:
    sent: Sent = defaultdict(set)
    billing = make_token("service", ANY_ORGANIZATION, scopes={Scope.BILLING_READ, Scope.BILLING_WRITE})

    def recording(http: httpx.AsyncClient, token: str) -> RecordingTenant:
        return RecordingTenant(http=http, organization=tenant.organization, token=token, sent=sent)

    return Clients(
        rotating=recording(tenant.http, tenant.token),
        admin=recording(lease_api.admin.http, lease_api.admin.token),
        service=recording(lease_api.service.http, lease_api.service.token),
        billing=recording(lease_api.admin.http, billing),
    )


async def call_credentials(clients: Clients) -> None:
    tenant = clients.rotating
    path = (await tenant.create()).headers["Location"]
    await tenant.patch(path, json={"label": "Other"})
    for url in (tenant.credentials, path, f"{path}/versions", f"{path}/validations"):
        await tenant.get(url)
    await tenant.post(f"{path}/validations")
    await tenant.post(f"{path}/rotations", json={"api_key": make_key()})
    await tenant.post(f"{path}/rollback")
    pending = (await tenant.post(f"{path}/rotations", json={"api_key": make_key("overloaded")})).headers[
        "Location"
    ]
    await tenant.get(pending)
    await tenant.request("DELETE", pending)
    await tenant.post(f"{path}/rotations", json={"api_key": make_key()})
    await tenant.post(f"{path}/versions/1/destroy")
    await tenant.post(f"{path}/disable")
    await tenant.post(f"{path}/enable")
    await tenant.request("DELETE", path)
    await clients.admin.post("/v1/provider-url-checks", json={"url": "https://gateway.example.com"})
    await tenant.get(f"{tenant.path}/audit-events")


async def call_usage_mode_and_leases(clients: Clients) -> None:
    admin = clients.admin
    credential = (await admin.create()).json()["id"]
    switch = {"mode": "byo", "credential_id": credential}
    await admin.get(f"{admin.path}/usage-mode")
    await admin.post(f"{admin.path}/usage-mode/preview", json=switch)
    await admin.request("PUT", f"{admin.path}/usage-mode", json=switch)
    in_a_day = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    scheduled = {"mode": "managed", "effective_at": in_a_day}
    await admin.request("PUT", f"{admin.path}/usage-mode", json=scheduled)
    await admin.request("DELETE", f"{admin.path}/usage-mode/scheduled")
    await admin.get(f"{admin.path}/usage-mode/history")
    await admin.get("/v1/session")
    await admin.get(f"{admin.path}/readiness")
    await clients.service.post(f"{admin.path}/credential-leases", json={})


async def call_usage(clients: Clients) -> None:
    now = datetime.now(UTC)
    event = {
        "event_id": "event-1",
        "started_at": now.isoformat(),
        "model": "claude-haiku-5-5",
        "outcome": "succeeded",
        "usage_source": "reported",
        "usage": {"input_tokens": 12, "output_tokens": 6},
    }
    await clients.service.post(f"{clients.admin.path}/usage-events", json={"events": [event]})
    await clients.admin.get(f"{clients.admin.path}/usage-events")
    await clients.admin.get(f"{clients.admin.path}/usage-events.csv")
    starting_at = (now - timedelta(days=1)).isoformat()
    for report in ("usage-report", "usage-report.csv"):
        await clients.admin.get(f"{clients.admin.path}/{report}", params={"starting_at": starting_at})
    for export in ("usage-report.csv", "usage-events.csv"):
        link = f"{clients.admin.path}/{export}/links"
        path = (await clients.admin.post(link, params={"starting_at": starting_at})).json()["path"]
        await clients.admin.get(path)


async def call_spending(clients: Clients) -> None:
    admin = clients.admin
    limit = {"name": "Monthly budget", "amount": USD, "period": "month"}
    path = (await admin.post(f"{admin.path}/spend-limits", json=limit)).headers["Location"]
    await admin.get(path)
    await admin.get(f"{admin.path}/spend-limits")
    await admin.patch(path, json={"period": "total"})
    reservations = f"{admin.path}/spend-reservations"
    reservation = (await clients.service.post(reservations, json={"amount": USD})).json()["id"]
    await clients.service.get(reservations)
    await clients.service.get(f"{reservations}/{reservation}")
    await clients.service.request("DELETE", f"{reservations}/{reservation}")
    await admin.request("DELETE", path)
    hook = {"url": "https://hooks.example.com/byok"}
    path = (await admin.post(f"{admin.path}/webhook-endpoints", json=hook)).headers["Location"]
    await admin.get(path)
    await admin.get(f"{admin.path}/webhook-endpoints")
    await admin.request("DELETE", path)


async def call_billing(clients: Clients) -> None:
    billing, now = clients.billing, datetime.now(UTC)
    last_month = f"{now.replace(day=1) - timedelta(days=1):%Y-%m}"
    await billing.get(f"{billing.path}/price-overrides")
    await billing.request("PUT", f"{billing.path}/price-overrides", json={"overrides": []})
    terms = {"plan": "production", "monthly_fee": USD, "included_endpoints": 1, "endpoint_overage_fee": USD}
    await billing.request("PUT", f"{billing.path}/subscription", json=terms)
    await billing.request("PUT", f"{billing.path}/endpoint-counts/{now:%Y-%m-%d}", json={"endpoints": 1})
    await billing.get(f"{billing.path}/subscription")
    await billing.get(f"{billing.path}/endpoint-counts")
    await billing.get(f"{billing.path}/endpoint-counts/{now:%Y-%m-%d}")
    await billing.get(f"{billing.path}/billing-statements")
    for statement in (last_month, f"{last_month}.csv"):
        await billing.get(f"{billing.path}/billing-statements/{statement}")
    await billing.post(f"{billing.path}/billing-statements/{last_month}.csv/links")
    await billing.post(f"{billing.path}/billing-statements/{last_month}/close")


async def call_health(clients: Clients) -> None:
    for path in ("/livez", "/readyz", "/metrics"):
        await clients.admin.get(path)


def declared_headers() -> Sent:
    """The headers of each successful response in the document, for operations that have one."""
    return {
        (operation["operationId"], status): {frozenset(response["headers"]) & HEADERS}
        for item in DOCUMENT["paths"].values()
        for operation in item.values()
        for status, response in operation["responses"].items()
        if status.startswith("2")
    }


class TestEtagAndLocation:
    async def test_are_declared_for_the_operations_that_send_them(self, clients: Clients) -> None:
        await call_credentials(clients)
        await call_usage_mode_and_leases(clients)
        await call_usage(clients)
        await call_spending(clients)
        await call_billing(clients)
        await call_health(clients)

        assert dict(clients.admin.sent) == declared_headers()
