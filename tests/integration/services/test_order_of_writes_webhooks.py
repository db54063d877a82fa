"""Whatever interrupts adding or deleting a webhook endpoint: once the sweep is through, row and secret agree."""

from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.errors import ByokError, SecretStoreUnavailable
from app.core.services import Services
from app.core.signing_secret import SigningSecret
from app.database.engine import Database
from app.provider_url.url_policy import OutboundUrl
from app.secret_store.port import CasMismatch
from app.webhooks.endpoints import WebhookEndpoint
from app.webhooks.service import WebhookService
from app.webhooks.signing_secrets import FIRST_VERSION, ref_of
from tests.integration.services.conftest import MakeCaller
from tests.integration.services.vessels import Vessel
from tests.integration.services.workplace import Workplace
from tests.interruptions import Course, Crash, HoldingStore, Step, crash, outage

URL = OutboundUrl(host="hooks.example.com", path="/in")
FEWEST_STEPS, MOST_STEPS = 8, 40

MakeWorkplace = Callable[[Vessel], Workplace]
Interrupt = Callable[[Workplace, Course], Awaitable[None]]


@pytest.fixture
def make_workplace(
    services: Services, database: Database, owner: AsyncEngine, make_caller: MakeCaller
) -> MakeWorkplace:
    return lambda vessel: Workplace(
        services=services, database=database, owner=owner, vessel=vessel, caller=make_caller()
    )


async def add(place: Workplace, services: Services) -> tuple[WebhookEndpoint, SigningSecret]:
    return await services[WebhookService].add(place.caller, URL)


async def assert_in_step(place: Workplace) -> list[WebhookEndpoint]:
    """Nothing is left to do, every row is shown, and every secret in the store belongs to one."""
    assert await place.rows("job_queue") == [], "work is left over"
    assert {row["state"] for row in await place.rows("webhook_endpoint")} <= {"active"}, (
        "an endpoint is stuck"
    )
    endpoints = await place.healthy[WebhookService].page(place.organization, at_most=10, before=None)
    pointed_at = {(endpoint.id, FIRST_VERSION) for endpoint in endpoints}
    assert await place.vessel.secrets(place.organization) == pointed_at, "an orphan or a dangling row"
    return list(endpoints)


async def interrupt_adding(place: Workplace, course: Course) -> None:
    added = None
    with suppress(Crash, ByokError):
        added = await add(place, place.interrupted(course))
    await place.sweep()
    endpoints = await assert_in_step(place)
    if added is None:
        return
    endpoint, secret = added
    assert [found.id for found in endpoints] == [endpoint.id]
    ref = ref_of(place.organization, endpoint.id)
    assert await place.vessel.store.read_signing_secret(ref, FIRST_VERSION) == secret


async def interrupt_deleting(place: Workplace, course: Course) -> None:
    endpoint, _ = await add(place, place.healthy)
    deleted = None
    with suppress(Crash, ByokError):
        deleted = await place.interrupted(course)[WebhookService].delete(place.caller, endpoint.id)
    await place.sweep()
    endpoints = await assert_in_step(place)
    if deleted is not None:
        assert endpoints == []


interruptions = pytest.mark.parametrize("interrupt", [interrupt_adding, interrupt_deleting])


@interruptions
class TestEveryStep:
    async def test_survives_a_crash(
        self, vessel: Vessel, make_workplace: MakeWorkplace, interrupt: Interrupt
    ) -> None:
        for at in range(1, MOST_STEPS):
            course = crash(at)
            await interrupt(make_workplace(vessel), course)
            if course.got_through:
                break

        assert course.got_through
        assert FEWEST_STEPS <= course.steps < MOST_STEPS

    @pytest.mark.parametrize("lasts", [False, True])
    async def test_survives_an_outage(
        self, vessel: Vessel, make_workplace: MakeWorkplace, interrupt: Interrupt, lasts: bool
    ) -> None:
        for at in range(1, MOST_STEPS):
            course = outage(at, lasts=lasts)
            await interrupt(make_workplace(vessel), course)
            if course.got_through:
                break

        assert course.got_through

    async def test_survives_being_taken_for_dead(
        self, vessel: Vessel, make_workplace: MakeWorkplace, interrupt: Interrupt
    ) -> None:
        for at in range(1, MOST_STEPS):
            place = make_workplace(vessel)

            async def sweep(step: Step, place: Workplace = place) -> None:
                if not step.holds_locks:  # a sweep waits for these, and goes on as after the commit
                    await place.sweep()

            course = Course(at, sweep)
            await interrupt(place, course)
            if course.got_through:
                break

        assert course.got_through


class TestLateWrite:
    @pytest.mark.parametrize("error", [Crash, SecretStoreUnavailable])
    async def test_that_comes_after_the_sweep_is_barred(
        self, vessel: Vessel, make_workplace: MakeWorkplace, error: type[BaseException]
    ) -> None:
        place = make_workplace(vessel)
        store = HoldingStore(vessel.store, error)
        with pytest.raises(error):
            await add(place, place.with_store(store))
        await place.sweep()

        with pytest.raises(CasMismatch):
            await store.deliver()

        assert await assert_in_step(place) == []
