"""Concurrency limits: one organization cannot use or await more than its quota."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from app.core.admission import AdmissionQueue, OrganizationSlots
from app.core.errors import ConcurrencyLimited


def queue(
    limit: int | None = 3, *, quota: int | None = 2, timeout: float = 0.01, waiting: int = 10
) -> AdmissionQueue:
    return AdmissionQueue(limit, per_organization=quota, queue_timeout_seconds=timeout, max_waiting=waiting)


class TestQuota:
    async def test_rejects_what_exceeds_it_after_the_timeout(self) -> None:
        admission = queue()

        async with admission.slot("org_a"), admission.slot("org_a"):
            with pytest.raises(ConcurrencyLimited):
                async with admission.slot("org_a"):
                    pass

    async def test_leaves_the_rest_to_other_organizations(self) -> None:
        admission = queue()

        async with admission.slot("org_a"), admission.slot("org_a"), admission.slot("org_b"):
            pass

    async def test_waiting_tasks_of_one_organization_do_not_delay_another(self) -> None:
        admission = queue(timeout=60)
        async with AsyncExitStack() as held:
            for _ in range(2):
                await held.enter_async_context(admission.slot("org_a"))
            waiting = [asyncio.create_task(_pass_through(admission, "org_a")) for _ in range(8)]
            await asyncio.sleep(0)

            await asyncio.wait_for(_pass_through(admission, "org_b"), 1)

            assert not any(task.done() for task in waiting)
        await asyncio.gather(*waiting)

    async def test_rejects_at_once_when_too_many_wait(self) -> None:
        admission = queue(timeout=60, waiting=1)
        async with admission.slot("org_a"), admission.slot("org_a"):
            waiting = asyncio.create_task(_pass_through(admission, "org_a"))
            await asyncio.sleep(0)

            with pytest.raises(ConcurrencyLimited):
                await _pass_through(admission, "org_a")
            await _pass_through(admission, "org_b")
        await waiting

    async def test_slot_of_a_cancelled_task_is_free_again(self) -> None:
        admission = queue(1, quota=1, timeout=60)
        async with admission.slot("org_a"):
            waiting = [asyncio.create_task(_pass_through(admission, org)) for org in ("org_a", "org_b")]
            await asyncio.sleep(0)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

        await asyncio.wait_for(_pass_through(admission, "org_a"), 1)
        await asyncio.wait_for(_pass_through(admission, "org_b"), 1)

    async def test_started_work_waits_as_long_as_it_takes(self) -> None:
        admission = queue(timeout=0)
        async with admission.slot("org_a"), admission.slot("org_a"):

            async def continue_work() -> None:
                async with admission.slot("org_a", is_started=True):
                    pass

            continuing = asyncio.create_task(continue_work())
            await asyncio.sleep(0.02)
            assert not continuing.done()
        await continuing

    async def test_holds_without_a_common_limit(self) -> None:
        admission = queue(None)

        async with AsyncExitStack() as held:
            for number in range(50):
                await held.enter_async_context(admission.slot(f"org_{number}"))


class TestOrganizationSlots:
    async def test_keeps_nothing_about_organizations_without_tasks(self) -> None:
        slots = OrganizationSlots(1)

        for number in range(100):
            await slots.acquire(f"org_{number}")
            slots.release(f"org_{number}")

        assert slots._slots == {}


async def _pass_through(
    admission: AdmissionQueue,
    organization: str,
    ready: asyncio.Event | None = None,
    *,
    is_started: bool = False,
) -> None:
    """Hold a slot once, after a preparation that waits for `ready`."""

    async def prepare() -> None:
        if ready is not None:
            await ready.wait()

    async with admission.slot(organization, is_started=is_started, prepare=prepare):
        pass


class TestPreparation:
    """What comes between the quota of an organization and the common slots."""

    async def test_holds_no_slot_that_others_wait_for(self) -> None:
        admission = queue(1, quota=1, timeout=60)
        ready = asyncio.Event()
        preparing = asyncio.create_task(_pass_through(admission, "org_a", ready))
        await asyncio.sleep(0)

        await asyncio.wait_for(_pass_through(admission, "org_b"), 1)

        assert not preparing.done()
        ready.set()
        await preparing

    async def test_holds_the_quota(self) -> None:
        admission = queue(quota=1)
        ready = asyncio.Event()
        preparing = asyncio.create_task(_pass_through(admission, "org_a", ready))
        await asyncio.sleep(0)

        with pytest.raises(ConcurrencyLimited):
            await _pass_through(admission, "org_a")

        ready.set()
        await preparing
        await _pass_through(admission, "org_a")

    async def test_has_time_where_no_task_waits(self) -> None:
        admission = queue(1, quota=1, timeout=0)
        ready = asyncio.Event()
        asyncio.get_running_loop().call_later(0.02, ready.set)

        await _pass_through(admission, "org_a", ready)

    async def test_does_not_use_up_the_time_for_a_slot(self) -> None:
        admission = queue(1, quota=1, timeout=0.2)
        ready = asyncio.Event()
        async with AsyncExitStack() as held:
            await held.enter_async_context(admission.slot("org_b"))
            waiting = asyncio.create_task(_pass_through(admission, "org_a", ready))
            await asyncio.sleep(0.3)
            ready.set()
            await asyncio.sleep(0.01)
        await waiting

    async def test_that_takes_too_long_is_rejected_and_holds_nothing(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("app.core.admission._PREPARATION_SECONDS", 0.01)
        admission = queue(1, quota=1)

        with pytest.raises(ConcurrencyLimited):
            await _pass_through(admission, "org_a", asyncio.Event())

        await _pass_through(admission, "org_a")

    @pytest.mark.parametrize("is_started", [True, False])
    async def test_that_fails_or_is_cancelled_holds_nothing(self, *, is_started: bool) -> None:
        admission = queue(1, quota=1)

        async def fail() -> None:
            raise LookupError

        with pytest.raises(LookupError):
            async with admission.slot("org_a", is_started=is_started, prepare=fail):
                pass
        preparing = asyncio.create_task(
            _pass_through(admission, "org_a", asyncio.Event(), is_started=is_started)
        )
        await asyncio.sleep(0)
        preparing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await preparing

        await _pass_through(admission, "org_a")
