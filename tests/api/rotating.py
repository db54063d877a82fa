"""What tests of a credential's later life share: rotate, look, let time pass."""

from typing import Any

import httpx
from sqlalchemy.ext.asyncio import AsyncEngine

from app.composition.reconciler import Reconciler
from app.core.services import Services
from tests.conftest import Tenant
from tests.fake_anthropic import make_key
from tests.rows import change, fetch, make_due


async def saved(tenant: Tenant, behaviour: str = "valid", **fields: Any) -> str:
    """The path of a new credential."""
    response = await tenant.create(behaviour, **fields)
    assert response.status_code == 201, response.text
    return response.headers["Location"]


async def rotate(
    tenant: Tenant, path: str, behaviour: str = "valid", *, headers: Any = None, **fields: Any
) -> httpx.Response:
    body = {"api_key": make_key(behaviour)} | fields
    return await tenant.post(f"{path}/rotations", json=body, headers=headers or {})


async def rotated(tenant: Tenant, path: str, behaviour: str = "valid", **fields: Any) -> dict[str, Any]:
    response = await rotate(tenant, path, behaviour, **fields)
    assert response.status_code == 201, response.text
    rotation: dict[str, Any] = response.json()
    return rotation


async def seen(tenant: Tenant, url: str) -> dict[str, Any]:
    response = await tenant.get(url)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def put_in_force(tenant: Tenant, path: str | None) -> None:
    """Switch to that credential; to none, where it is None."""
    body = {"mode": "byo", "credential_id": None if path is None else path.rpartition("/")[2]}
    response = await tenant.request("PUT", f"{tenant.path}/usage-mode", json=body)
    assert response.status_code == 200, response.text


async def listed(tenant: Tenant, **query: str) -> list[str]:
    """Ids of the credentials on the first page."""
    response = await tenant.get(tenant.credentials, params=query)
    return [credential["id"] for credential in response.json()["data"]]


async def version_states(tenant: Tenant, path: str) -> dict[int, str]:
    versions = (await seen(tenant, f"{path}/versions"))["data"]
    return {version["key_version"]: version["state"] for version in versions}


async def let_time_pass(owner: AsyncEngine, services: Services, tenant: Tenant) -> None:
    """Whatever waits is due, retired keys included."""
    await make_due(owner, tenant.organization)
    await services[Reconciler].run()


async def secrets_kept(owner: AsyncEngine, tenant: Tenant) -> int:
    """How many of the organization's secrets rest in the store."""
    statement = "SELECT count(*) AS n FROM sealed_secret WHERE organization_id = :o AND sealed IS NOT NULL"
    (row,) = await fetch(owner, statement, o=tenant.organization)
    count: int = row["n"]
    return count


async def age_rotations(owner: AsyncEngine, tenant: Tenant, *, hours: int) -> None:
    await change(
        owner,
        "UPDATE credential_rotation SET created_at = created_at - :hours * interval '1 hour' WHERE organization_id = :o",
        hours=hours,
        o=tenant.organization,
    )


async def actions(tenant: Tenant) -> list[str]:
    """The trail, oldest first."""
    events = (await seen(tenant, f"{tenant.path}/audit-events"))["data"]
    return [event["action"] for event in reversed(events)]


def refusal(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]
