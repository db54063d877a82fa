"""Long work lets other tasks run before its slice has passed by much."""

import asyncio
import time
from contextvars import Context
from itertools import pairwise

import pytest

from app.core.event_loop import (
    SLICE_SECONDS,
    TimeSlice,
    _has_request_with_little_work,
    _requests_with_little_work,
    line_of,
    request_in_progress,
)

STEPS = 6


def use(seconds: float) -> None:
    ends_at = time.perf_counter() + seconds
    while time.perf_counter() < ends_at:
        pass


async def _work(steps: list[str], name: str, *, gives_way: bool = False) -> None:
    time_slice = TimeSlice(gives_way=gives_way)
    for _ in range(STEPS):
        steps.append(name)
        use(SLICE_SECONDS)
        await time_slice.pause_if_used()


async def _record_iterations(steps: list[str]) -> None:
    while True:
        if steps[-1:] != ["-"]:
            steps.append("-")
        await asyncio.sleep(0)


async def _busy() -> None:
    while True:
        use(SLICE_SECONDS)
        await asyncio.sleep(0)


async def _count(counted: list[int]) -> None:
    while True:
        counted[0] += 1
        await asyncio.sleep(0)


class TestTimeSlice:
    async def test_pauses_each_time_that_it_is_used(self) -> None:
        counted, time_slice = [0], TimeSlice()
        other = asyncio.create_task(_count(counted))

        for used in range(1, 4):
            use(SLICE_SECONDS)
            await time_slice.pause_if_used()
            assert counted[0] >= used
        other.cancel()

    async def test_does_not_pause_before(self) -> None:
        counted, time_slice = [0], TimeSlice()
        time_slice._left = 60
        other = asyncio.create_task(_count(counted))

        await time_slice.pause_if_used()

        assert counted == [0]
        other.cancel()

    async def test_does_not_count_what_it_waits_for(self) -> None:
        time_slice = TimeSlice()

        time_slice.suspend()
        use(2 * SLICE_SECONDS)
        time_slice.resume()

        assert 0 < time_slice._left <= SLICE_SECONDS
        counted = [0]
        other = asyncio.create_task(_count(counted))
        await time_slice.pause_if_used()
        assert counted == [0]
        other.cancel()

    async def test_in_a_transaction_lets_others_run_but_does_not_wait_in_line(self) -> None:
        counted, time_slice = [0], TimeSlice(in_transaction=True)
        other = asyncio.create_task(_count(counted))

        async with line_of(asyncio.get_running_loop()), asyncio.timeout(5):
            for used in range(1, 4):
                use(SLICE_SECONDS)
                await time_slice.pause_if_used()
                assert counted == [used]
        other.cancel()

    async def test_long_tasks_alternate_and_a_short_one_runs_between_them(self) -> None:
        steps: list[str] = []
        tasks = [asyncio.create_task(_work(steps, name)) for name in "abc"]
        short = asyncio.create_task(_record_iterations(steps))
        await asyncio.gather(*tasks)
        short.cancel()

        long = "".join(step for step in steps if step != "-")
        assert long[3:].startswith("abcabcabc")
        # After its first slice, no long task runs directly after another one.
        assert all("-" in pair for pair in pairwise(steps[4:]))

    async def test_goes_on_in_a_busy_loop(self) -> None:
        busy = [asyncio.create_task(_busy()) for _ in range(3)]
        time_slice = TimeSlice()

        async with asyncio.timeout(5):
            for _ in range(3):
                use(SLICE_SECONDS)
                await time_slice.pause_if_used()
        for task in busy:
            task.cancel()

    async def test_cancelled_while_it_waits_lets_the_next_one_go_on(self) -> None:
        steps: list[str] = []
        tasks = [asyncio.create_task(_work(steps, name)) for name in "abc"]
        await asyncio.sleep(0)  # each has its first slice, and waits for the next one

        tasks[0].cancel()
        async with asyncio.timeout(5):
            await asyncio.gather(*tasks, return_exceptions=True)

        assert steps.count("b") == steps.count("c") == STEPS


async def _work_for_a_request(steps: list[str], name: str) -> None:
    with request_in_progress():
        await _work(steps, name)


class TestBesideRequests:
    async def test_reports_and_exports_together_use_at_most_a_fifth_of_the_time(self) -> None:
        waiting, steps = asyncio.Event(), list[str]()

        async def wait() -> None:
            with request_in_progress():
                await waiting.wait()

        request = asyncio.create_task(wait())
        await asyncio.sleep(0)
        began_at = time.perf_counter()
        await asyncio.gather(*(_work(steps, name, gives_way=True) for name in "ab"))

        assert time.perf_counter() - began_at >= 2 * STEPS * 5 * SLICE_SECONDS
        waiting.set()
        await request

    async def test_other_long_work_does_not_wait_for_reports_that_give_way(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("app.core.event_loop._PAUSE_BESIDE_REQUESTS_SECONDS", 60)
        steps: list[str] = []
        with request_in_progress():
            # In a separate context, as the work of another request is.
            report = asyncio.create_task(_work(steps, "a", gives_way=True), context=Context())
            await asyncio.sleep(0)
            other = asyncio.create_task(_work(steps, "b"), context=Context())
            async with asyncio.timeout(5):
                await other

        assert steps.count("a") == 1
        assert steps.count("b") == STEPS
        report.cancel()

    @pytest.mark.parametrize("ended", ["response", "request"])
    async def test_uses_all_of_it_once_the_response_has_begun(self, ended: str) -> None:
        began = asyncio.Event()

        async def respond() -> None:
            with request_in_progress() as end:
                end()
                began.set()
                await asyncio.sleep(60 if ended == "response" else 0)

        request = asyncio.create_task(respond())
        await began.wait()

        assert not _has_request_with_little_work()
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        assert not _requests_with_little_work

    async def test_requests_with_long_work_do_not_slow_each_other(self) -> None:
        steps: list[str] = []
        tasks = [asyncio.create_task(_work_for_a_request(steps, name)) for name in "ab"]
        await asyncio.sleep(0)  # each has its first slice

        assert steps == ["a", "b"]
        assert not _has_request_with_little_work()
        await asyncio.gather(*tasks)
        assert not _requests_with_little_work

    async def test_a_request_that_waits_for_long_does_not_count(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with request_in_progress():
            assert _has_request_with_little_work()
            monkeypatch.setattr("app.core.event_loop._LITTLE_WORK_SECONDS", 0)
            assert not _has_request_with_little_work()
