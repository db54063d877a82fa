"""A retry with the same Idempotency-Key finishes what an interrupted or failed request began, exactly once."""

from contextlib import suppress
from dataclasses import replace

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.services import Services
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from tests.support.database.rows import change, fetch
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
from tests.support.requests.idempotent import (
    REPLAYED_HEADER,
    list_credential_ids,
    new_body,
    post_with_idempotency_key,
)
from tests.support.service_builder import assemble, client_of
from tests.support.tenant import MakeTenant, Tenant

MAX_STEPS = 80


async def _expire_the_claim(superuser: AsyncEngine, tenant: Tenant) -> None:
    await change(
        superuser,
        "UPDATE idempotency_key SET held_until = now() - interval '1 second' WHERE organization_id = :o",
        o=tenant.organization,
    )


async def _delete_the_response(superuser: AsyncEngine, tenant: Tenant) -> None:
    """As if the request had crashed just before it stored its response."""
    await change(
        superuser,
        "UPDATE idempotency_key SET status_code = NULL, headers = NULL, body = NULL WHERE organization_id = :o",
        o=tenant.organization,
    )


class TestInterruptedRequest:
    async def test_keeps_the_key_until_its_claim_expires(
        self, tenant: Tenant, superuser: AsyncEngine
    ) -> None:
        body = new_body()
        await post_with_idempotency_key(tenant, body)
        await _delete_the_response(superuser, tenant)

        response = await post_with_idempotency_key(tenant, body)

        assert (response.status_code, response.json()["code"]) == (409, "idempotency_in_progress")

    async def test_that_had_created_the_credential_is_not_repeated(
        self, tenant: Tenant, superuser: AsyncEngine
    ) -> None:
        body = new_body()
        first = await post_with_idempotency_key(tenant, body)
        await _delete_the_response(superuser, tenant)
        await _expire_the_claim(superuser, tenant)

        response = await post_with_idempotency_key(tenant, body)

        assert (response.status_code, response.json()) == (201, first.json())
        assert await list_credential_ids(tenant) == [first.json()["id"]]
        assert (await post_with_idempotency_key(tenant, body)).headers[REPLAYED_HEADER] == "true"

    async def test_that_had_created_nothing_is_repeated(self, tenant: Tenant, superuser: AsyncEngine) -> None:
        body = new_body()
        first = await post_with_idempotency_key(tenant, body)
        await _delete_the_response(superuser, tenant)
        await _expire_the_claim(superuser, tenant)
        for table in ("credential_validation", "fingerprint_claim", "credential_version"):
            await change(superuser, f"DELETE FROM {table} WHERE credential_id = :id", id=first.json()["id"])
        await change(superuser, "DELETE FROM provider_credential WHERE id = :id", id=first.json()["id"])

        response = await post_with_idempotency_key(tenant, body)

        assert response.status_code == 201
        assert await list_credential_ids(tenant) == [response.json()["id"]]

    async def test_does_not_free_the_key_for_another_request(
        self, tenant: Tenant, superuser: AsyncEngine
    ) -> None:
        await post_with_idempotency_key(tenant, new_body())
        await _delete_the_response(superuser, tenant)
        await _expire_the_claim(superuser, tenant)

        response = await post_with_idempotency_key(tenant, new_body())

        assert (response.status_code, response.json()["code"]) == (422, "idempotency_key_reused")

    async def test_for_a_validation_does_not_start_a_second_one(
        self, tenant: Tenant, superuser: AsyncEngine
    ) -> None:
        path = (await tenant.create()).headers["Location"]
        headers = {"Idempotency-Key": "validate"}
        first = await tenant.post(f"{path}/validations", headers=headers)
        await _delete_the_response(superuser, tenant)
        await _expire_the_claim(superuser, tenant)

        again = await tenant.post(f"{path}/validations", headers=headers)

        assert (again.status_code, again.json()) == (201, first.json())


class RetryingClient:
    """A client whose request fails, and which repeats it with the same Idempotency-Key."""

    def __init__(
        self, services: Services, database: Database, superuser: AsyncEngine, make: MakeTenant
    ) -> None:
        self._services = services
        self._database = database
        self._superuser = superuser
        self._make_tenant = make

    async def run(self, faults: FaultSchedule) -> tuple[Tenant, httpx.Response]:
        """Returns the tenant and the response to the retry, which is sent after the claim has expired."""
        store, body, tenant = FakeSecretStore(), new_body(), self._make_tenant()
        failing = assemble(
            self._services,
            units=FaultInjectingUnitsOfWork(self._database, faults),
            store=fault_injecting_store(store, faults),
            prober=ApprovingProber(faults),
        )
        healthy = assemble(
            self._services, units=UnitsOfWork(self._database), store=store, prober=ApprovingProber()
        )
        with suppress(Crash):
            async with client_of(failing) as client:
                await post_with_idempotency_key(replace(tenant, http=client), body)
        await _expire_the_claim(self._superuser, tenant)
        async with client_of(healthy) as client:
            return tenant, await post_with_idempotency_key(replace(tenant, http=client), body)


@pytest.fixture
def retrying(
    services: Services, database: Database, superuser: AsyncEngine, make_tenant: MakeTenant
) -> RetryingClient:
    return RetryingClient(services, database, superuser, make_tenant)


class TestRetry:
    async def test_after_a_crash_at_any_step_creates_exactly_one(self, retrying: RetryingClient) -> None:
        for at in sampled_steps(MAX_STEPS, stride=4):
            faults = crash(at)

            tenant, response = await retrying.run(faults)

            assert response.status_code == 201, (at, response.text)
            assert await list_credential_ids(tenant) == [response.json()["id"]], at
            if faults.never_fired:
                break

        assert faults.never_fired

    @pytest.mark.parametrize("lasts", [False, True])
    async def test_after_an_outage_at_any_step_creates_exactly_one(
        self, retrying: RetryingClient, lasts: bool
    ) -> None:
        failures: dict[int, str] = {}
        for at in sampled_steps(MAX_STEPS, stride=4):
            faults = outage(at, lasts=lasts)

            tenant, response = await retrying.run(faults)

            if response.status_code != 201 or await list_credential_ids(tenant) != [response.json()["id"]]:
                failures[at] = response.text
            if faults.never_fired:
                break

        assert failures == {}
        assert faults.never_fired


async def test_claim_expires_a_minute_after_it_was_made(tenant: Tenant, superuser: AsyncEngine) -> None:
    await post_with_idempotency_key(tenant, new_body())

    (row,) = await fetch(
        superuser,
        "SELECT held_until - now() AS left FROM idempotency_key WHERE organization_id = :o",
        o=tenant.organization,
    )

    assert 0 < row["left"].total_seconds() <= 60
