"""Requests of usage mode tests: switch, get the mode and list its history."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from tests.support.requests.rotation import get_json
from tests.support.tenant import Tenant

MANAGED = {"mode": "managed", "credential_id": None}
BYO_WITHOUT_CREDENTIAL = {"mode": "byo", "credential_id": None}


async def request_switch(tenant: Tenant, body: Any, *, if_match: str | None = None) -> httpx.Response:
    headers = {} if if_match is None else {"If-Match": if_match}
    return await tenant.request("PUT", f"{tenant.path}/usage-mode", json=body, headers=headers)


async def switch_mode(tenant: Tenant, body: Any) -> dict[str, Any]:
    response = await request_switch(tenant, body)
    assert response.status_code == 200, response.text
    state: dict[str, Any] = response.json()
    return state


async def get_usage_mode(tenant: Tenant) -> dict[str, Any]:
    return await get_json(tenant, f"{tenant.path}/usage-mode")


async def get_history(tenant: Tenant, **query: Any) -> dict[str, Any]:
    response = await tenant.get(f"{tenant.path}/usage-mode/history", params=query)
    assert response.status_code == 200, response.text
    page: dict[str, Any] = response.json()
    return page


def parse_timestamp(text: str) -> datetime:
    assert text.endswith("Z")
    return datetime.fromisoformat(text)


def future_timestamp(**by: float) -> str:
    """The current time plus this duration, as an RFC 3339 timestamp."""
    return to_timestamp(datetime.now(UTC) + timedelta(**by))


def to_timestamp(at: datetime) -> str:
    text = at.astimezone(UTC).isoformat(timespec="microseconds")
    return text.replace("+00:00", "Z")
