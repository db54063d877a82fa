"""What a vanished or troubled request leaves under its Idempotency-Key: the next one finishes it, once."""

from contextlib import suppress
from dataclasses import replace

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.services import Services
from app.database.engine import Database
from app.database.unit_of_work import UnitsOfWork
from tests.api.test_idempotency import REPLAYED, create, listed, new_body
from tests.assembly import assemble, client_of
from tests.conftest import MakeTenant, Tenant
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
from tests.rows import change, fetch

MOST_STEPS = 80


async def _let_the_hold_pass(owner: AsyncEngine, tenant: Tenant) -> None:
    await change(
        owner,
        "UPDATE idempotency_key SET held_until = now() - interval '1 second' WHERE organization_id = :o",
        o=tenant.organization,
    )


async def _forget_the_answer(owner: AsyncEngine, tenant: Tenant) -> None:
    """As if the holder had died just before it kept its answer."""
    await change(
        owner,
        "UPDATE idempotency_key SET status_code = NULL, headers = NULL, body = NULL WHERE organization_id = :o",
        o=tenant.organization,
    )


class TestHolderThatVanished:
    async def test_holds_the_key_for_its_minute(self, tenant: Tenant, owner: AsyncEngine) -> None:
        body = new_body()
        await create(tenant, body)
        await _forget_the_answer(owner, tenant)

        response = await create(tenant, body)

        assert (response.status_code, response.json()["code"]) == (409, "idempotency_in_progress")

    async def test_after_it_was_done_is_answered_for(self, tenant: Tenant, owner: AsyncEngine) -> None:
        body = new_body()
        first = await create(tenant, body)
        await _forget_the_answer(owner, tenant)
        await _let_the_hold_pass(owner, tenant)

        response = await create(tenant, body)

        assert (response.status_code, response.json()) == (201, first.json())
        assert await listed(tenant) == [first.json()["id"]]
        assert (await create(tenant, body)).headers[REPLAYED] == "true"

    async def test_before_anything_was_done_frees_the_key(self, tenant: Tenant, owner: AsyncEngine) -> None:
        body = new_body()
        first = await create(tenant, body)
        await _forget_the_answer(owner, tenant)
        await _let_the_hold_pass(owner, tenant)
        for table in ("credential_validation", "fingerprint_claim", "credential_version"):
            await change(owner, f"DELETE FROM {table} WHERE credential_id = :id", id=first.json()["id"])
        await change(owner, "DELETE FROM provider_credential WHERE id = :id", id=first.json()["id"])

        response = await create(tenant, body)

        assert response.status_code == 201
        assert await listed(tenant) == [response.json()["id"]]

    async def test_does_not_free_it_for_another_request(self, tenant: Tenant, owner: AsyncEngine) -> None:
        await create(tenant, new_body())
        await _forget_the_answer(owner, tenant)
        await _let_the_hold_pass(owner, tenant)

        response = await create(tenant, new_body())

        assert (response.status_code, response.json()["code"]) == (422, "idempotency_key_reused")

    async def test_of_a_check_is_answered_for_without_another_check(
        self, tenant: Tenant, owner: AsyncEngine
    ) -> None:
        path = (await tenant.create()).headers["Location"]
        headers = {"Idempotency-Key": "check"}
        first = await tenant.post(f"{path}/validations", headers=headers)
        await _forget_the_answer(owner, tenant)
        await _let_the_hold_pass(owner, tenant)

        again = await tenant.post(f"{path}/validations", headers=headers)

        assert (again.status_code, again.json()) == (201, first.json())


class Retrying:
    """A client whose request meets trouble and which repeats it afterwards, with the same Idempotency-Key."""

    def __init__(self, services: Services, database: Database, owner: AsyncEngine, make: MakeTenant) -> None:
        self._services = services
        self._database = database
        self._owner = owner
        self._make_tenant = make

    async def run(self, course: Course) -> tuple[Tenant, httpx.Response]:
        """The tenant and the answer to the repetition; another minute has passed since."""
        store, body, tenant = FakeSecretStore(), new_body(), self._make_tenant()
        troubled = assemble(
            self._services,
            units=InterruptedUnits(self._database, course),
            store=interrupted_store(store, course),
            prober=ApprovingProber(course),
        )
        healthy = assemble(
            self._services, units=UnitsOfWork(self._database), store=store, prober=ApprovingProber()
        )
        with suppress(Crash):
            async with client_of(troubled) as client:
                await create(replace(tenant, http=client), body)
        await _let_the_hold_pass(self._owner, tenant)
        async with client_of(healthy) as client:
            return tenant, await create(replace(tenant, http=client), body)


@pytest.fixture
def retrying(services: Services, database: Database, owner: AsyncEngine, make_tenant: MakeTenant) -> Retrying:
    return Retrying(services, database, owner, make_tenant)


class TestRepetition:
    async def test_after_a_crash_at_any_step_creates_exactly_one(self, retrying: Retrying) -> None:
        for at in range(1, MOST_STEPS):
            course = crash(at)

            tenant, response = await retrying.run(course)

            assert response.status_code == 201, (at, response.text)
            assert await listed(tenant) == [response.json()["id"]], at
            if course.got_through:
                break

        assert course.got_through

    @pytest.mark.parametrize("lasts", [False, True])
    async def test_after_an_outage_at_any_step_creates_exactly_one(
        self, retrying: Retrying, lasts: bool
    ) -> None:
        answers: dict[int, str] = {}
        for at in range(1, MOST_STEPS):
            course = outage(at, lasts=lasts)

            tenant, response = await retrying.run(course)

            if response.status_code != 201 or await listed(tenant) != [response.json()["id"]]:
                answers[at] = response.text
            if course.got_through:
                break

        assert answers == {}
        assert course.got_through


async def test_hold_is_counted_from_the_claim(tenant: Tenant, owner: AsyncEngine) -> None:
    await create(tenant, new_body())

    (row,) = await fetch(
        owner,
        "SELECT held_until - now() AS left FROM idempotency_key WHERE organization_id = :o",
        o=tenant.organization,
    )

    assert 0 < row["left"].total_seconds() <= 60
