"""What a store on the other side of a network can do besides: lose a message, hear it twice, hear it late."""

from contextlib import suppress
from datetime import timedelta

import pytest

from app.core.errors import SecretStoreUnavailable
from app.core.services import Services
from app.credentials.deletion import DeletionService
from app.leases.service import LeaseService
from app.usage_mode.modes import UsageMode
from app.usage_mode.service import ModeSwitch, UsageModeService
from tests.direct_vault import DirectWire, Lost
from tests.integration.secret_store.server import is_there
from tests.integration.services.conftest import MakeBench, MakeWorkplace
from tests.integration.services.deeds import DEEDS, GONE, Answer, Deed, destroy_version, rotation
from tests.integration.services.interrupting import (
    MOST_STEPS,
    assert_still_true,
    count,
    every_deed,
    interrupt,
)
from tests.integration.services.soundness import LIVE, Bench
from tests.integration.services.vessels import Vessel
from tests.integration.services.workplace import make_key
from tests.interrupted_vault import LateWrites, interfered
from tests.interruptions import ALL_CRASHES, Course, Crash, crash

# Of a server that is asked over HTTP and takes its time: each kind of write, unless all are asked for.
AT_THE_REAL_ONE = tuple(DEEDS) if ALL_CRASHES else ("rotate, destroy the key before", "delete")


class TestTornConnection:
    """The client sends once more what may have got through, so that Vault hears it twice."""

    @pytest.mark.parametrize("lost", Lost)
    @every_deed
    async def test_at_any_request_goes_unnoticed(
        self,
        vault_vessel: Vessel,
        direct_wire: DirectWire,
        make_bench: MakeBench,
        capsys: pytest.CaptureFixture[str],
        name: str,
        lost: Lost,
    ) -> None:
        deed, keys = DEEDS[name]
        for at in range(1, MOST_STEPS):
            bench = await make_bench(vault_vessel, keys)
            direct_wire.tear(at, lost)

            answer = await deed(bench, bench.place.healthy)

            is_over = direct_wire.sent < at
            direct_wire.mend()
            await bench.settle()
            await bench.assert_sound()
            await assert_still_true(bench, answer)
            if is_over:
                break

        assert is_over
        count(capsys, name, vault_vessel, at - 1, f"torn connections, {lost} lost")


class TestLateWrite:
    """The request that writes the key is on its way while the sweep takes its sender for dead."""

    @pytest.mark.parametrize("error", [Crash, None])
    async def test_of_a_creation_leaves_nothing_whenever_it_comes(
        self, any_vault_vessel: Vessel, make_workplace: MakeWorkplace, error: type[BaseException] | None
    ) -> None:
        for at in range(1, MOST_STEPS):
            place, key, late = make_workplace(any_vault_vessel), make_key(), LateWrites(error)
            with pytest.raises((Crash, SecretStoreUnavailable)):
                await place.register(place.with_store(interfered(any_vault_vessel.store, late)), key)
            course = Course(at, late.at_step)

            await place.sweep(place.interrupted(course))

            await place.sweep()
            assert await place.assert_in_step(key) == []
            if course.got_through:
                break

        assert [answer.is_cas_mismatch for answer in await late.deliver()] == [True]
        assert await place.assert_in_step(key) == []

    @pytest.mark.parametrize("error", [Crash, None])
    async def test_of_a_rotation_leaves_the_key_in_use_alone_whenever_it_comes(
        self, any_vault_vessel: Vessel, make_bench: MakeBench, error: type[BaseException] | None
    ) -> None:
        for at in range(1, MOST_STEPS):
            bench, late = await make_bench(any_vault_vessel, 1), LateWrites(error)
            with pytest.raises((Crash, SecretStoreUnavailable)):
                await rotation()(bench, bench.place.with_store(interfered(any_vault_vessel.store, late)))
            course = Course(at, late.at_step)

            await bench.settle(bench.place.interrupted(course))

            await bench.settle()
            await bench.assert_at_rest()
            if course.got_through:
                break

        assert [answer.is_cas_mismatch for answer in await late.deliver()] == [True]
        await bench.assert_at_rest()

    async def test_of_a_rotation_does_not_harm_the_next_one(
        self, any_vault_vessel: Vessel, make_bench: MakeBench
    ) -> None:
        bench, late = await make_bench(any_vault_vessel, 1), LateWrites()
        with pytest.raises(SecretStoreUnavailable):
            await rotation()(bench, bench.place.with_store(interfered(any_vault_vessel.store, late)))
        await bench.settle()
        answer = await rotation()(bench, bench.place.healthy)

        assert [answer.is_cas_mismatch for answer in await late.deliver()] == [True]

        await bench.settle()
        await bench.assert_sound()
        await assert_still_true(bench, answer)


class TestLease:
    """A token that opens to a key, and that nobody has opened yet."""

    @pytest.mark.parametrize("name", ["delete", "destroy a version", "rotate, destroy the key before"])
    async def test_goes_with_its_key_wherever_the_end_of_the_key_is_interrupted(
        self, vault_vessel: Vessel, make_bench: MakeBench, name: str
    ) -> None:
        for at in range(1, MOST_STEPS):
            bench = await make_bench(vault_vessel, 1)
            token = await lease(bench)
            if name == "destroy a version":
                await rotation()(bench, bench.place.healthy)
            course = crash(at)

            with suppress(Crash):
                await ENDS[name](bench, bench.place.interrupted(course))

            await bench.settle()
            await bench.assert_sound()
            (first, *_) = await bench.versions()
            assert vault_vessel.opens is not None
            assert await vault_vessel.opens(token) is (first["state"] in LIVE)
            if course.got_through:
                break

        assert course.got_through
        assert first["state"] == "destroyed"


@pytest.mark.skipif(not is_there(), reason="needs a real Vault or OpenBao")
class TestRealServer:
    @pytest.mark.parametrize("name", AT_THE_REAL_ONE)
    async def test_crash_at_every_step_is_mended(
        self,
        real_vault_vessel: Vessel,
        make_bench: MakeBench,
        capsys: pytest.CaptureFixture[str],
        name: str,
    ) -> None:
        deed, keys = DEEDS[name]
        for at in range(1, MOST_STEPS):
            course = crash(at)
            await interrupt(await make_bench(real_vault_vessel, keys), deed, course)
            if course.got_through:
                break

        assert course.got_through
        count(capsys, name, real_vault_vessel, course.steps, "crash points")


async def lease(bench: Bench) -> str:
    """The wrapping token of the key in force."""
    place = bench.place
    wish = ModeSwitch(mode=UsageMode.BYO, credential_id=bench.credential_id, effective_at=None)
    await place.healthy[UsageModeService].switch(place.caller, wish)
    return (await place.healthy[LeaseService].create(place.caller, ttl=timedelta(minutes=5))).wrapping_token


async def delete_by_force(bench: Bench, services: Services) -> Answer:
    return await services[DeletionService].delete(bench.place.caller, bench.credential_id, force=True)


ENDS: dict[str, Deed] = {
    "delete": delete_by_force,
    "destroy a version": destroy_version,
    "rotate, destroy the key before": rotation(destroy_previous=GONE),
}
