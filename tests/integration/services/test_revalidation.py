"""Periodic checks: what is due is checked once, put off by its verdict, and forgotten when nobody needs it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.clock import new_id
from app.core.errors import NotFound
from app.core.services import Services
from app.credentials.deletion import DeletionService
from app.credentials.enablement import EnablementService
from app.credentials.service import CredentialService
from app.credentials.validator import ANSWER_SECONDS
from app.credentials.verdicts import Reason, ValidationStatus
from app.database.engine import Database
from app.validation.runner import LEAST_PROBE_SECONDS, _seconds_left
from app.validation.service import ValidationService
from app.validation.worker import HOST_IS_BUSY, ValidationWorker
from tests.integration.services.periodic_checks import DAY, Place
from tests.waiting import until

PER_HOST = 4  # as `assemble` sets it


@pytest.fixture
async def place(services: Services, own_database: Database, own_engine: AsyncEngine) -> AsyncIterator[Place]:
    place = Place(services, own_database, own_engine)
    yield place
    place.prober.gate.set()
    await place.clear()


def about(pause: timedelta) -> tuple[timedelta, timedelta]:
    """The jitter of a tenth, and a little for the time that the test takes."""
    return pause * 0.9 - timedelta(seconds=5), pause * 1.1


class TestRun:
    async def test_leaves_alone_what_is_not_due(self, place: Place) -> None:
        await place.register()

        await place.instance[ValidationWorker].run()

        assert not place.prober.asked

    async def test_checks_what_is_due_once_and_puts_it_off(self, place: Place) -> None:
        _, key = await place.register()

        await place.run()

        (pause,) = await place.pauses()
        assert place.prober.asked == {key: 1}
        assert about(DAY)[0] < pause < about(DAY)[1]
        assert (await place.checks())[-1] == {
            "trigger": "schedule",
            "requested_by": "system",
            "status": "valid",
        }

    async def test_of_two_instances_each_checks_what_the_other_does_not(self, place: Place) -> None:
        keys = [(await place.register())[1] for _ in range(20)]
        other = place.new_instance()
        await place.make_due()

        await asyncio.gather(place.instance[ValidationWorker].run(), other[ValidationWorker].run())

        assert place.prober.asked == dict.fromkeys(keys, 1)

    async def test_waits_longer_from_one_indeterminate_verdict_to_the_next(self, place: Place) -> None:
        await place.register()
        place.prober.reason = Reason.OVERLOADED
        pauses: list[timedelta] = []

        for _ in range(3):
            await place.run()
            pauses += await place.pauses()
        place.prober.reason = Reason.OK
        await place.run()
        pauses += await place.pauses()

        for pause, expected in zip(pauses, [1, 2, 4, 24 * 60], strict=True):
            earliest, latest = about(timedelta(minutes=expected))
            assert earliest < pause < latest

    async def test_an_indeterminate_verdict_does_not_hide_the_definite_one(self, place: Place) -> None:
        credential_id, _ = await place.register()
        place.prober.reason = Reason.TIMEOUT

        await place.run()

        current = (
            await place.instance[CredentialService].read(place.caller.organization_id, credential_id)
        ).current
        assert (current.verdict.status, current.latest.reason) == (ValidationStatus.VALID, Reason.TIMEOUT)


class TestPerHost:
    async def test_a_slow_host_keeps_its_own_checks_waiting_and_no_others(self, place: Place) -> None:
        slow = [(await place.register(base_url="https://slow.example.com"))[1] for _ in range(PER_HOST + 3)]
        _, elsewhere = await place.register()
        place.prober.gate.clear()

        running = asyncio.create_task(place.run())
        put_off = await until(place.pauses, lambda pauses: pauses[2] < HOST_IS_BUSY < pauses[3])
        await until(
            lambda: _now(place.prober.asked),
            lambda asked: asked[elsewhere] == 1 and sum(asked[key] for key in slow) == PER_HOST,
        )
        place.prober.gate.set()
        await running
        await place.make_due(within=2 * HOST_IS_BUSY)
        await place.instance[ValidationWorker].run()

        assert put_off[0] > timedelta(0)
        assert place.prober.asked == dict.fromkeys([*slow, elsewhere], 1)

    async def test_two_slow_hosts_do_not_share_a_bound(self, place: Place) -> None:
        for host in ("one", "two"):
            for _ in range(PER_HOST):
                await place.register(base_url=f"https://{host}.example.com")
        place.prober.gate.clear()

        running = asyncio.create_task(place.run())

        await until(lambda: _now(place.prober.asked), lambda asked: asked.total() == 2 * PER_HOST)
        place.prober.gate.set()
        await running


async def _now(asked: Counter[str]) -> Counter[str]:
    return asked


class TestRecheckSoon:
    async def test_brings_the_next_check_forward(self, place: Place) -> None:
        credential_id, key = await place.register()
        place.prober.reason = Reason.INVALID_KEY

        await place.instance[ValidationService].recheck_soon(place.caller.organization_id, credential_id)
        await place.instance[ValidationWorker].run()

        (pause,) = await place.pauses()
        assert place.prober.asked == {key: 1}
        assert about(DAY)[0] < pause < about(DAY)[1]
        assert [check["status"] for check in await place.checks()] == ["valid", "invalid"]

    async def test_of_an_unknown_credential_is_not_found_and_schedules_nothing(self, place: Place) -> None:
        with pytest.raises(NotFound):
            await place.instance[ValidationService].recheck_soon(place.caller.organization_id, new_id())

        assert await place.pauses() == []

    async def test_checks_once_where_there_are_no_periodic_checks(self, place: Place) -> None:
        credential_id, key = await place.register()
        place.instance = place.new_instance(every=None)

        await place.instance[ValidationService].recheck_soon(place.caller.organization_id, credential_id)
        await place.instance[ValidationWorker].run()

        assert place.prober.asked == {key: 1}
        assert await place.pauses() == []


class TestUnneededChecks:
    async def test_a_disabled_credential_is_not_checked_until_it_is_enabled(self, place: Place) -> None:
        credential_id, key = await place.register()
        await place.instance[EnablementService].disable(place.caller, credential_id)

        await place.run()

        assert not place.prober.asked
        assert await place.pauses() == []
        await place.instance[EnablementService].enable(place.caller, credential_id)
        await place.instance[ValidationWorker].run()
        assert place.prober.asked == {key: 1}

    async def test_a_deleted_credential_is_not_checked_and_its_item_goes(self, place: Place) -> None:
        credential_id, _ = await place.register()
        await place.instance[DeletionService].delete(place.caller, credential_id, force=False)

        await place.run()

        assert not place.prober.asked
        assert await place.pauses() == []


class TestTimeAllowed:
    async def test_is_what_is_left_for_whoever_waits(self, place: Place) -> None:
        await place.register()

        (allowed,) = place.prober.allowed_seconds

        assert allowed is not None
        assert 0 < allowed <= ANSWER_SECONDS

    async def test_is_the_client_s_own_where_nobody_waits(self, place: Place) -> None:
        await place.register()
        place.prober.allowed_seconds.clear()

        await place.run()

        assert place.prober.allowed_seconds == [None]

    async def test_is_never_nothing(self) -> None:
        long_ago = asyncio.get_running_loop().time() - ANSWER_SECONDS

        assert _seconds_left(long_ago) == LEAST_PROBE_SECONDS
