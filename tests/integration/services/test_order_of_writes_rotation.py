"""Whatever interrupts a rotation, rollback, destruction or deletion wherever: database and store agree afterwards."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from operator import itemgetter
from typing import TypeAlias

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.database import Database
from app.domain.clock import new_id
from app.domain.credentials import CredentialRecord
from app.domain.errors import ByokError, NoPreviousVersion, TooManyVersions
from app.domain.rotation import MOST_STORE_VERSIONS, RotationRecord, RotationState
from app.secret_store.base import SecretRef
from app.services import Services
from app.services.retirement import DeletionReceipt
from tests.integration.services.conftest import MakeCaller, Vessel
from tests.integration.services.deeds import DEEDS, Answer, Deed, delete, roll_back, rotation
from tests.integration.services.soundness import Bench
from tests.integration.services.workplace import Workplace, make_key
from tests.interruptions import Course, Crash, Step, crash, outage

MOST_STEPS = 80

MakeBench: TypeAlias = Callable[[Vessel, int], Awaitable[Bench]]
every_deed = pytest.mark.parametrize("name", DEEDS)


@pytest.fixture
def make_bench(
    services: Services, database: Database, owner: AsyncEngine, make_caller: MakeCaller
) -> MakeBench:
    async def make(vessel: Vessel, keys: int) -> Bench:
        place = Workplace(
            services=services, database=database, owner=owner, vessel=vessel, caller=make_caller()
        )
        key = make_key()
        record = await place.register(place.healthy, key)
        bench = Bench(place=place, credential_id=record.id, keys=[key])
        for _ in range(keys - 1):
            await rotation()(bench, place.healthy)
        return bench

    return make


async def interrupt(bench: Bench, deed: Deed, course: Course) -> None:
    """Do it under that course, sweep, look, let the retention pass, and look again."""
    answer: Answer = None
    try:
        answer = await deed(bench, bench.place.interrupted(course))
    except (Crash, ByokError):
        assert not course.got_through, "refused, though nothing happened"
    await bench.settle()
    await bench.assert_sound()
    await assert_still_true(bench, answer)
    await bench.let_retention_pass()
    await bench.assert_at_rest()


async def assert_still_true(bench: Bench, answer: Answer) -> None:
    """What the caller was told holds, whatever came after."""
    place = bench.place
    if isinstance(answer, RotationRecord) and answer.state is not RotationState.PENDING:
        found = await place.healthy.rotation.read(place.organization, bench.credential_id, answer.id)
        assert found.state is answer.state
    if isinstance(answer, DeletionReceipt):
        assert await delete(bench, place.healthy) == answer
    elif isinstance(answer, RotationRecord | CredentialRecord):
        record = await place.healthy.credentials.read(place.organization, bench.credential_id)
        in_use = answer.key_version if isinstance(answer, RotationRecord) else answer.current.key_version
        is_in_use = isinstance(answer, CredentialRecord) or answer.state is RotationState.ACTIVATED
        assert not is_in_use or record.current.key_version == in_use


def count(capsys: pytest.CaptureFixture[str], name: str, vessel: Vessel, points: int, kind: str) -> None:
    """A line of the run's output: how often it was interrupted."""
    with capsys.disabled():
        print(f"\n  {name}, over {vessel.name}: {points} {kind}", end="")


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
        self, fake_vessel: Vessel, make_bench: MakeBench, capsys: pytest.CaptureFixture[str], name: str
    ) -> None:
        """The deed dies half-way; the sweep after it dies at every step."""
        deed, keys = DEEDS[name]
        course = Course(MOST_STEPS, _nothing)
        await deed(bench := await make_bench(fake_vessel, keys), bench.place.interrupted(course))
        points = 0
        for done_until in range(1, course.steps + 1, 3):
            for swept_until in range(1, MOST_STEPS):
                bench = await make_bench(fake_vessel, keys)
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

        count(capsys, name, fake_vessel, points, "crash points in two places")


class TestOutage:
    @pytest.mark.parametrize("lasts", [False, True])
    @every_deed
    async def test_at_every_step_is_mended(
        self,
        fake_vessel: Vessel,
        make_bench: MakeBench,
        capsys: pytest.CaptureFixture[str],
        name: str,
        lasts: bool,
    ) -> None:
        deed, keys = DEEDS[name]
        for at in range(1, MOST_STEPS):
            course = outage(at, lasts=lasts)
            await interrupt(await make_bench(fake_vessel, keys), deed, course)
            if course.got_through:
                break

        assert course.got_through
        count(capsys, name, fake_vessel, course.steps, "outages")


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
                    with suppress(NoPreviousVersion):
                        await roll_back(bench, bench.place.healthy)
                        await rotation()(bench, bench.place.healthy)

            course = Course(at, bring_back_and_replace)
            await bench.place.sweep(bench.place.interrupted(course))

            await bench.settle()
            await bench.assert_sound()
            (first, *_) = sorted(await bench.place.rows("credential_version"), key=itemgetter("key_version"))
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
