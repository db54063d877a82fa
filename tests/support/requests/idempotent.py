"""Requests that carry an Idempotency-Key."""

from typing import Any

import httpx

from tests.support.provider.fake_anthropic import make_key
from tests.support.tenant import Tenant

REPLAYED_HEADER = "Idempotency-Replayed"


def new_body(behaviour: str = "valid") -> dict[str, Any]:
    return {"label": "Once", "api_key": make_key(behaviour)}


async def post_with_idempotency_key(tenant: Tenant, body: Any, *, key: str = "once") -> httpx.Response:
    return await tenant.post(tenant.credentials, json=body, headers={"Idempotency-Key": key})


async def list_credential_ids(tenant: Tenant) -> list[str]:
    return [credential["id"] for credential in (await tenant.get(tenant.credentials)).json()["data"]]
