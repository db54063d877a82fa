"""What tests of the usage mode share: put a switch, look at the mode and its history."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from tests.api.rotating import seen
from tests.conftest import Tenant

MANAGED = {"mode": "managed", "credential_id": None}
EMPTY_BYO = {"mode": "byo", "credential_id": None}


async def switch(tenant: Tenant, body: Any, *, if_match: str | None = None) -> httpx.Response:
    headers = {} if if_match is None else {"If-Match": if_match}
    return await tenant.request("PUT", f"{tenant.path}/usage-mode", json=body, headers=headers)


async def switched(tenant: Tenant, body: Any) -> dict[str, Any]:
    response = await switch(tenant, body)
    assert response.status_code == 200, response.text
    state: dict[str, Any] = response.json()
    return state


async def mode_of(tenant: Tenant) -> dict[str, Any]:
    return await seen(tenant, f"{tenant.path}/usage-mode")


async def history(tenant: Tenant, **query: Any) -> dict[str, Any]:
    response = await tenant.get(f"{tenant.path}/usage-mode/history", params=query)
    assert response.status_code == 200, response.text
    page: dict[str, Any] = response.json()
    return page


def instant(text: str) -> datetime:
    assert text.endswith("Z")
    return datetime.fromisoformat(text)


def ahead(**by: float) -> str:
    """A time to come, as it goes out on the wire."""
    return wire(datetime.now(UTC) + timedelta(**by))


def wire(at: datetime) -> str:
    text = at.astimezone(UTC).isoformat(timespec="microseconds")
    return text.replace("+00:00", "Z")
