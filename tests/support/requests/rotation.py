"""Requests and database helpers for tests of credentials, rotations and deletions."""

from typing import Any

import httpx
from sqlalchemy.ext.asyncio import AsyncEngine

from app.composition.reconciler import Reconciler
from app.core.services import Services
from tests.support.database.rows import change, fetch, make_due
from tests.support.provider.fake_anthropic import make_key
from tests.support.tenant import Tenant


async def create_credential(tenant: Tenant, behaviour: str = "valid", **fields: Any) -> str:
    """Create a credential. Returns its path."""
    response = await tenant.create(behaviour, **fields)
    assert response.status_code == 201, response.text
    return response.headers["Location"]


async def post_rotation(
    tenant: Tenant, path: str, behaviour: str = "valid", *, headers: Any = None, **fields: Any
) -> httpx.Response:
    body = {"api_key": make_key(behaviour)} | fields
    return await tenant.post(f"{path}/rotations", json=body, headers=headers or {})


async def rotate_credential(
    tenant: Tenant, path: str, behaviour: str = "valid", **fields: Any
) -> dict[str, Any]:
    response = await post_rotation(tenant, path, behaviour, **fields)
    assert response.status_code == 201, response.text
    rotation: dict[str, Any] = response.json()
    return rotation


async def get_json(tenant: Tenant, url: str) -> dict[str, Any]:
    response = await tenant.get(url)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def switch_to_byo(tenant: Tenant, path: str | None) -> None:
    """Switch to BYO with this credential; with `None`, without a credential."""
    body = {"mode": "byo", "credential_id": None if path is None else path.rpartition("/")[2]}
    response = await tenant.request("PUT", f"{tenant.path}/usage-mode", json=body)
    assert response.status_code == 200, response.text


async def list_credential_ids(tenant: Tenant, **query: str) -> list[str]:
    """The ids of the credentials on the first page."""
    response = await tenant.get(tenant.credentials, params=query)
    return [credential["id"] for credential in response.json()["data"]]


async def version_states(tenant: Tenant, path: str) -> dict[int, str]:
    versions = (await get_json(tenant, f"{path}/versions"))["data"]
    return {version["key_version"]: version["state"] for version in versions}


async def run_due_jobs(superuser: AsyncEngine, services: Services, tenant: Tenant) -> None:
    """Make all queue items due, also the destruction of kept versions, and reconcile."""
    await make_due(superuser, tenant.organization)
    await services[Reconciler].run()


async def count_stored_secrets(superuser: AsyncEngine, tenant: Tenant) -> int:
    """The number of the organization's secrets in the store."""
    statement = (
        "SELECT count(*) AS n FROM sealed_secret s WHERE organization_id = :o AND s.sealed IS NOT NULL"
    )
    (row,) = await fetch(superuser, statement, o=tenant.organization)
    count: int = row["n"]
    return count


async def backdate_rotations(superuser: AsyncEngine, tenant: Tenant, *, hours: int) -> None:
    await change(
        superuser,
        # In UTC, because Citus accepts no function of a column here whose result depends on the session's zone.
        "UPDATE credential_rotation SET created_at = (created_at AT TIME ZONE 'UTC' - :hours * interval '1 hour')"
        " AT TIME ZONE 'UTC' WHERE organization_id = :o",
        hours=hours,
        o=tenant.organization,
    )


async def audit_actions(tenant: Tenant) -> list[str]:
    """The actions in the audit log, oldest first."""
    events = (await get_json(tenant, f"{tenant.path}/audit-events"))["data"]
    return [event["action"] for event in reversed(events)]


def status_and_code(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["code"]
