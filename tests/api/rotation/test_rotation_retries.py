"""Tests of the retries of pending rotations: those of one organization do not delay those of another."""

import asyncio

from sqlalchemy.ext.asyncio import AsyncEngine

from app.composition.reconciler import Reconciler
from app.core.services import Services
from app.jobs.queue import JobKind
from tests.support.database.rows import make_due
from tests.support.polling import until
from tests.support.provider.fake_anthropic import FakeAnthropic, make_key
from tests.support.requests.rotation import create_credential, get_json, rotate_credential
from tests.support.tenant import MakeTenant, Tenant

RETRIES_AT_ONCE = 16


async def start_pending_rotation(tenant: Tenant) -> tuple[str, str]:
    """Start a rotation whose first validation is indeterminate. Returns the key and the rotation's path."""
    path, key = await create_credential(tenant), make_key("overloaded")
    rotation = await rotate_credential(tenant, path, api_key=key)
    assert rotation["state"] == "pending"
    return key, f"{path}/rotations/{rotation['id']}"


async def test_hanging_retries_delay_only_those_of_their_organization(
    make_tenant: MakeTenant, slow_provider: FakeAnthropic, superuser: AsyncEngine, services: Services
) -> None:
    noisy, other = make_tenant(), make_tenant()
    for _ in range(RETRIES_AT_ONCE + 1):
        key, _ = await start_pending_rotation(noisy)
        slow_provider.behave(key, "slow")
    await make_due(superuser, noisy.organization)
    key, rotation = await start_pending_rotation(other)
    slow_provider.behave(key, "valid")
    await make_due(superuser, other.organization)

    retries = asyncio.create_task(services[Reconciler].runners[JobKind.RETRY_ROTATION].run())
    await slow_provider.arrived.wait()
    await until(lambda: get_json(other, rotation), lambda found: found["state"] == "activated")

    assert not retries.done()
    slow_provider.release.set()
    await retries
