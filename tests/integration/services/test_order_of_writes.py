"""Whatever interrupts a creation wherever: once the sweep is through, database and store agree."""

from contextlib import suppress
from uuid import UUID

import pytest

from app.core.errors import ByokError, SecretStoreUnavailable
from app.credentials.records import CredentialRecord
from app.credentials.service import CredentialService
from app.secret_store.port import CasMismatch
from tests.integration.services.conftest import MakeWorkplace
from tests.integration.services.interrupting import TRIED
from tests.integration.services.vessels import Vessel
from tests.integration.services.workplace import Workplace, make_key
from tests.interruptions import ALL_CRASHES, Course, Crash, HoldingStore, Step, crash, outage

FEWEST_STEPS = 15  # of a creation: fewer, and the wrappers have lost sight of something
MOST_STEPS = 60
# After which steps of a creation the sweep's crashes are tried, unless all are: every one, or every fifth.
STRIDES = {"memory": 1, "Vault's fake": 5}


async def _interrupt(place: Workplace, course: Course) -> None:
    """Create under that course, sweep, and look."""
    key = make_key()
    record = None
    with suppress(Crash, ByokError):
        record = await place.register(place.interrupted(course), key)
    await place.sweep()
    ids = await place.assert_in_step(key)
    await _assert_still_true(place, record, ids)
    await place.assert_registrable(key, ids)
    TRIED[place.vessel.name] += not course.got_through


async def _assert_still_true(place: Workplace, record: CredentialRecord | None, ids: list[UUID]) -> None:
    if record is None:
        return
    assert ids == [record.id]
    found = await place.healthy[CredentialService].read(place.organization, record.id)
    assert found.current.fingerprint == record.current.fingerprint


class TestCreate:
    async def test_survives_a_crash_at_every_step(
        self, vessel: Vessel, make_workplace: MakeWorkplace
    ) -> None:
        for at in range(1, MOST_STEPS):
            course = crash(at)
            await _interrupt(make_workplace(vessel), course)
            if course.got_through:
                break

        assert FEWEST_STEPS < course.steps < MOST_STEPS
        assert course.got_through

    @pytest.mark.parametrize("lasts", [False, True])
    async def test_survives_an_outage_at_every_step(
        self, vessel: Vessel, make_workplace: MakeWorkplace, lasts: bool
    ) -> None:
        for at in range(1, MOST_STEPS):
            course = outage(at, lasts=lasts)
            await _interrupt(make_workplace(vessel), course)
            if course.got_through:
                break

        assert course.got_through

    async def test_survives_being_taken_for_dead_at_every_step(
        self, vessel: Vessel, make_workplace: MakeWorkplace
    ) -> None:
        for at in range(1, MOST_STEPS):
            place = make_workplace(vessel)

            async def sweep(step: Step, place: Workplace = place) -> None:
                if not step.holds_locks:  # a sweep waits for these, and goes on as after the commit
                    await place.sweep()

            course = Course(at, sweep)
            await _interrupt(place, course)
            if course.got_through:
                break

        assert course.got_through


class TestLateWrite:
    """The message to the store is still on its way when its sender has given up or died."""

    @pytest.mark.parametrize("error", [Crash, SecretStoreUnavailable])
    async def test_that_comes_after_the_sweep_is_barred(
        self, vessel: Vessel, make_workplace: MakeWorkplace, error: type[BaseException]
    ) -> None:
        place, key = make_workplace(vessel), make_key()
        store = HoldingStore(vessel.store, error)
        with pytest.raises(error):
            await place.register(place.with_store(store), key)
        await place.sweep()

        with pytest.raises(CasMismatch):
            await store.deliver()

        assert await place.assert_in_step(key) == []

    async def test_does_not_keep_its_key_from_being_registered_at_once(
        self, vessel: Vessel, make_workplace: MakeWorkplace
    ) -> None:
        place, key = make_workplace(vessel), make_key()
        store = HoldingStore(vessel.store, SecretStoreUnavailable)
        with pytest.raises(SecretStoreUnavailable):
            await place.register(place.with_store(store), key)

        record = await place.register(place.healthy, key)

        await store.deliver()
        await place.sweep()
        assert await place.assert_in_step(key) == [record.id]


class TestSweep:
    async def test_survives_a_crash_at_every_step_after_a_crash_at_every_step(
        self, quick_vessel: Vessel, make_workplace: MakeWorkplace
    ) -> None:
        stride = 1 if ALL_CRASHES else STRIDES[quick_vessel.name]
        for created_until in range(1, MOST_STEPS, stride):
            course = crash(created_until)
            swept_all = False
            for swept_until in range(1, MOST_STEPS):
                place, key = make_workplace(quick_vessel), make_key()
                course = crash(created_until)
                with suppress(Crash):
                    await place.register(place.interrupted(course), key)
                sweep = crash(swept_until)
                with suppress(Crash):
                    await place.sweep(place.interrupted(sweep))

                await place.sweep()

                await place.assert_in_step(key)
                swept_all = sweep.got_through
                if swept_all:
                    break
            assert swept_all
            if course.got_through:
                break

        assert course.got_through
