"""Save a credential and read the result of its validation."""

from typing import Any

from tests.support.provider.fake_anthropic import make_key
from tests.support.tenant import Tenant


async def save_credential(tenant: Tenant, behaviour: str = "valid") -> tuple[str, str]:
    """Create a credential and return its path and key."""
    key = make_key(behaviour)
    response = await tenant.create(api_key=key)
    return response.headers["Location"], key


async def validation_of(tenant: Tenant, path: str) -> dict[str, Any]:
    """Return the validation result that the credential contains."""
    validation: dict[str, Any] = (await tenant.get(path)).json()["validation"]
    return validation
