"""Tests of retrying an interrupted rotation with its Idempotency-Key: the key is activated exactly once."""

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.composition.reconciler import Reconciler
from app.core.services import Services
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from tests.support.database.rows import change, make_due
from tests.support.fakes import FakeSecretStore
from tests.support.fault_injection import (
    ApprovingProber,
    Crash,
    FaultInjectingUnitsOfWork,
    FaultSchedule,
    crash,
    fault_injecting_store,
    outage,
    sampled_steps,
)
from tests.support.provider.fake_anthropic import make_key
from tests.support.requests.rotation import create_credential, get_json, post_rotation, version_states
from tests.support.service_builder import assemble, client_of
from tests.support.tenant import MakeTenant, Tenant

MAX_STEPS = 80
ONCE = {"Idempotency-Key": "once"}


@dataclass(frozen=True, kw_only=True)
class FaultRunner:
    """Runs a rotation under injected faults, and retries it."""

    services: Services
    database: Database
    superuser: AsyncEngine
    make_tenant: MakeTenant

    async def run(
        self, faults: FaultSchedule, **fields: Any
    ) -> tuple[httpx.Response, dict[str, Any], dict[int, str]]:
        """Returns the response to the retry, and the credential and its versions after reconciliation."""
        store, tenant, body = FakeSecretStore(), self.make_tenant(), {"api_key": make_key(), **fields}
        healthy = self._assemble(UnitsOfWork(self.database), store, ApprovingProber())
        faulty = self._assemble(
            FaultInjectingUnitsOfWork(self.database, faults),
            fault_injecting_store(store, faults),
            ApprovingProber(faults),
        )
        async with client_of(healthy) as client:
            healthy_tenant = replace(tenant, http=client)
            path = await create_credential(healthy_tenant)
            with suppress(Crash):
                async with client_of(faulty) as faulty_client:
                    await post_rotation(replace(tenant, http=faulty_client), path, headers=ONCE, **body)
            await self._expire_idempotency_claim(tenant)
            response = await post_rotation(healthy_tenant, path, headers=ONCE, **body)
            for _ in range(3):
                await make_due(self.superuser, tenant.organization)
                await healthy[Reconciler].run()
            return response, await get_json(healthy_tenant, path), await version_states(healthy_tenant, path)

    def _assemble(self, units: UnitsOfWork, store: Any, prober: ApprovingProber) -> Services:
        return assemble(self.services, units=units, store=store, prober=prober)

    async def _expire_idempotency_claim(self, tenant: Tenant) -> None:
        await change(
            self.superuser,
            "UPDATE idempotency_key SET held_until = now() - interval '1 second' WHERE organization_id = :o",
            o=tenant.organization,
        )


@pytest.fixture
def fault_runner(
    services: Services, database: Database, superuser: AsyncEngine, make_tenant: MakeTenant
) -> FaultRunner:
    return FaultRunner(services=services, database=database, superuser=superuser, make_tenant=make_tenant)


async def assert_rotated_once(fault_runner: FaultRunner, faults: FaultSchedule, **fields: Any) -> None:
    response, credential, versions = await fault_runner.run(faults, **fields)

    assert response.status_code == 201, response.text
    assert response.json()["state"] in ("activated", "pending")
    assert credential["key_version"] == response.json()["key_version"]
    assert list(versions.values()).count("active") == 1
    assert "pending" not in versions.values()


class TestRetry:
    @pytest.mark.parametrize("activate", ["when_valid", "immediately"])
    async def test_after_a_crash_at_any_step_rotates_once(
        self, fault_runner: FaultRunner, activate: str
    ) -> None:
        for at in sampled_steps(MAX_STEPS, stride=6):
            faults = crash(at)
            await assert_rotated_once(fault_runner, faults, activate=activate)
            if faults.never_fired:
                break

        assert faults.never_fired

    @pytest.mark.parametrize("lasts", [False, True])
    async def test_after_an_outage_at_any_step_rotates_once(
        self, fault_runner: FaultRunner, lasts: bool
    ) -> None:
        for at in sampled_steps(MAX_STEPS, stride=6):
            faults = outage(at, lasts=lasts)
            await assert_rotated_once(fault_runner, faults)
            if faults.never_fired:
                break

        assert faults.never_fired
