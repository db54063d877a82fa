"""A rotation that met trouble and is repeated under its Idempotency-Key: the key goes into use, once."""

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
from tests.api.rotating import rotate, saved, seen, version_states
from tests.assembly import assemble, client_of
from tests.conftest import MakeTenant, Tenant
from tests.fake_anthropic import make_key
from tests.fakes import FakeSecretStore
from tests.interruptions import (
    ApprovingProber,
    Course,
    Crash,
    InterruptedUnits,
    crash,
    interrupted_store,
    outage,
)
from tests.rows import change, make_due

MOST_STEPS = 80
ONCE = {"Idempotency-Key": "once"}


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """What a run of such a client needs."""

    services: Services
    database: Database
    owner: AsyncEngine
    make_tenant: MakeTenant

    async def run(
        self, course: Course, **fields: Any
    ) -> tuple[httpx.Response, dict[str, Any], dict[int, str]]:
        """The answer to the repetition, then the credential and its versions once the sweep is through."""
        store, tenant, body = FakeSecretStore(), self.make_tenant(), {"api_key": make_key(), **fields}
        healthy = self._over(UnitsOfWork(self.database), store, ApprovingProber())
        troubled = self._over(
            InterruptedUnits(self.database, course), interrupted_store(store, course), ApprovingProber(course)
        )
        async with client_of(healthy) as client:
            well = replace(tenant, http=client)
            path = await saved(well)
            with suppress(Crash):
                async with client_of(troubled) as other:
                    await rotate(replace(tenant, http=other), path, headers=ONCE, **body)
            await self._let_the_hold_pass(tenant)
            answer = await rotate(well, path, headers=ONCE, **body)
            for _ in range(3):
                await make_due(self.owner, tenant.organization)
                await healthy[Reconciler].run()
            return answer, await seen(well, path), await version_states(well, path)

    def _over(self, units: UnitsOfWork, store: Any, prober: ApprovingProber) -> Services:
        return assemble(self.services, units=units, store=store, prober=prober)

    async def _let_the_hold_pass(self, tenant: Tenant) -> None:
        await change(
            self.owner,
            "UPDATE idempotency_key SET held_until = now() - interval '1 second' WHERE organization_id = :o",
            o=tenant.organization,
        )


@pytest.fixture
def trouble(services: Services, database: Database, owner: AsyncEngine, make_tenant: MakeTenant) -> Trouble:
    return Trouble(services=services, database=database, owner=owner, make_tenant=make_tenant)


async def assert_in_use_once(trouble: Trouble, course: Course, **fields: Any) -> None:
    answer, credential, versions = await trouble.run(course, **fields)

    assert answer.status_code == 201, answer.text
    assert answer.json()["state"] in ("activated", "pending")
    assert credential["key_version"] == answer.json()["key_version"]
    assert list(versions.values()).count("active") == 1
    assert "pending" not in versions.values()


class TestRepetition:
    @pytest.mark.parametrize("activate", ["when_valid", "immediately"])
    async def test_after_a_crash_at_any_step_rotates_once(self, trouble: Trouble, activate: str) -> None:
        for at in range(1, MOST_STEPS):
            course = crash(at)
            await assert_in_use_once(trouble, course, activate=activate)
            if course.got_through:
                break

        assert course.got_through

    @pytest.mark.parametrize("lasts", [False, True])
    async def test_after_an_outage_at_any_step_rotates_once(self, trouble: Trouble, lasts: bool) -> None:
        for at in range(1, MOST_STEPS):
            course = outage(at, lasts=lasts)
            await assert_in_use_once(trouble, course)
            if course.got_through:
                break

        assert course.got_through
