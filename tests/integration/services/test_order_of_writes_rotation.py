"""Whatever interrupts a rotation, rollback, destruction or deletion wherever: database and store agree afterwards."""

from contextlib import suppress

import pytest

from app.core.clock import new_id
from app.core.errors import ByokError, NoPreviousVersion, TooManyVersions
from app.credentials.rotations import MOST_STORE_VERSIONS
from app.secret_store.port import SecretRef
from tests.integration.services.conftest import MakeBench
from tests.integration.services.deeds import DEEDS, roll_back, rotation
from tests.integration.services.interrupting import MOST_STEPS, count, every_deed, interrupt
from tests.integration.services.soundness import Bench
from tests.integration.services.vessels import Vessel
from tests.interruptions import ALL_CRASHES, Course, Crash, Step, crash, outage

# Which steps of a deed the sweep's crashes are tried after, unless all are: every third, or every sixth.
STRIDES = {"memory": 3, "Vault's fake": 6}


class TestCrash:
    @every_deed
    async def test_at_every_step_is_mended(
        self, vessel: Vessel, make_bench: MakeBench, capsys: pytest.CaptureFixture[str], name: str
    ) -> None:
        deed, keys = DEEDS[name]
        for at in range(1, MOST_STEPS):
            course = crash(at)
            await interrupt(await make_bench(vessel, keys), deed, course)
            if course.got_through:
                break

        assert course.got_through
        count(capsys, name, vessel, course.steps, "crash points")

    @every_deed
    async def test_at_every_step_of_the_sweep_that_mends_it_is_mended(
        self, quick_vessel: Vessel, make_bench: MakeBench, capsys: pytest.CaptureFixture[str], name: str
    ) -> None:
        """The deed dies half-way; the sweep after it dies at every step."""
        deed, keys = DEEDS[name]
        course = Course(MOST_STEPS, _nothing)
        await deed(bench := await make_bench(quick_vessel, keys), bench.place.interrupted(course))
        stride = 1 if ALL_CRASHES else STRIDES[quick_vessel.name]
        points = 0
        for done_until in range(1, course.steps + 1, stride):
            for swept_until in range(1, MOST_STEPS):
                bench = await make_bench(quick_vessel, keys)
                with suppress(Crash):
                    await deed(bench, bench.place.interrupted(crash(done_until)))
                sweep = crash(swept_until)
                with suppress(Crash):
                    await bench.settle(bench.place.interrupted(sweep))
                await bench.settle()
                await bench.assert_sound()
                points += 1
                if sweep.got_through:
                    break

        count(capsys, name, quick_vessel, points, "crash points in two places")


class TestOutage:
    @pytest.mark.parametrize("lasts", [False, True])
    @every_deed
    async def test_at_every_step_is_mended(
        self,
        quick_vessel: Vessel,
        make_bench: MakeBench,
        capsys: pytest.CaptureFixture[str],
        name: str,
        lasts: bool,
    ) -> None:
        deed, keys = DEEDS[name]
        # An outage that lasts leaves what a crash leaves: over Vault every third will do.
        is_thinned = lasts and quick_vessel.opens is not None and not ALL_CRASHES
        points = 0
        for at in range(1, MOST_STEPS, 3 if is_thinned else 1):
            course = outage(at, lasts=lasts)
            await interrupt(await make_bench(quick_vessel, keys), deed, course)
            if course.got_through:
                break
            points += 1

        assert course.got_through
        count(capsys, name, quick_vessel, points, "outages that last" if lasts else "outages")


class TestSomebodyElse:
    """At every step of one deed another is done, whole."""

    @pytest.mark.parametrize(
        "other", ["rotate", "rotate at once", "roll back", "destroy a version", "delete"]
    )
    @every_deed
    async def test_at_every_step_does_no_harm(
        self, fake_vessel: Vessel, make_bench: MakeBench, name: str, other: str
    ) -> None:
        (deed, keys), (others_deed, _) = DEEDS[name], DEEDS[other]
        for at in range(1, MOST_STEPS):
            bench = await make_bench(fake_vessel, keys)

            async def interfere(step: Step, bench: Bench = bench) -> None:
                if not step.holds_locks:
                    with suppress(ByokError):
                        await others_deed(bench, bench.place.healthy)

            course = Course(at, interfere)
            with suppress(ByokError):
                await deed(bench, bench.place.interrupted(course))
            await bench.settle()
            await bench.assert_sound()
            await bench.let_retention_pass()
            await bench.assert_at_rest()
            if course.got_through:
                break

        assert course.got_through

    async def test_sweeping_at_every_step_does_no_harm(
        self, fake_vessel: Vessel, make_bench: MakeBench
    ) -> None:
        for at in range(1, MOST_STEPS):
            bench = await make_bench(fake_vessel, 1)

            async def sweep(step: Step, bench: Bench = bench) -> None:
                if not step.holds_locks:
                    await bench.place.sweep()

            course = Course(at, sweep)
            await interrupt(bench, rotation(), course)
            if course.got_through:
                break

        assert course.got_through

    async def test_bringing_a_retired_key_back_while_the_sweep_comes_for_it_keeps_it(
        self, fake_vessel: Vessel, make_bench: MakeBench
    ) -> None:
        for at in range(1, MOST_STEPS):
            bench = await make_bench(fake_vessel, 2)

            async def bring_back_and_replace(step: Step, bench: Bench = bench) -> None:
                if not step.holds_locks:
                    await bench.place.prolong()
                    with suppress(NoPreviousVersion):
                        await roll_back(bench, bench.place.healthy)
                        await rotation()(bench, bench.place.healthy)

            course = Course(at, bring_back_and_replace)
            await bench.place.sweep(bench.place.interrupted(course))

            await bench.settle()
            await bench.assert_sound()
            (first, *_) = await bench.versions()
            assert first["state"] == ("previous" if at == 1 else "destroyed")
            if course.got_through:
                break

        assert course.got_through


class TestNothingToDo:
    async def test_rollback_without_a_key_before_changes_nothing(
        self, vessel: Vessel, make_bench: MakeBench
    ) -> None:
        bench = await make_bench(vessel, 1)

        with pytest.raises(NoPreviousVersion):
            await roll_back(bench, bench.place.healthy)

        await bench.assert_at_rest()

    async def test_rotation_that_would_push_a_kept_key_out_of_the_store_is_refused(
        self, vessel: Vessel, make_bench: MakeBench
    ) -> None:
        bench = await make_bench(vessel, 1)
        ref = SecretRef(organization_id=bench.place.organization, credential_id=bench.credential_id)
        for number in range(1, MOST_STORE_VERSIONS - 1):
            await vessel.store.tombstone(ref, intent_id=new_id(), expected_version=number)

        await rotation()(bench, bench.place.healthy)  # number 100: the first is still kept
        with pytest.raises(TooManyVersions):
            await rotation()(bench, bench.place.healthy)

        await bench.assert_sound()
        await bench.let_retention_pass()
        await rotation()(bench, bench.place.healthy)


async def _nothing(_step: Step) -> None:
    """Only counts."""
