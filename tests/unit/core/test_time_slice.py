"""Long work lets other tasks run before its slice has passed by much."""

import asyncio
import contextvars
import time
from collections.abc import Iterator
from itertools import pairwise

import pytest

from app.core.admission import AdmissionQueue
from app.core.event_loop import (
    _SLICES_AT_FULL_PACE,
    SLICE_SECONDS,
    RequestInProgress,
    TimeSlice,
    _count_slice,
    has_short_request,
    line_of,
)

STEPS = 6


def use(seconds: float) -> None:
    ends_at = time.perf_counter() + seconds
    while time.perf_counter() < ends_at:
        pass


async def _work(steps: list[str], name: str) -> None:
    time_slice = TimeSlice()
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

    async def test_counts_what_the_server_used_to_receive_a_body(self) -> None:
        counted, time_slice = [0], TimeSlice()
        time_slice._left = 60
        other = asyncio.create_task(_count(counted))

        time_slice.count_received(1024)
        await time_slice.pause_if_used()
        assert counted == [0]
        time_slice._left = SLICE_SECONDS
        time_slice.count_received(1024 * 1024)
        await time_slice.pause_if_used()

        assert counted[0] >= 1
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


@pytest.fixture
def short_request() -> Iterator[RequestInProgress]:
    """A request that waits for the database."""
    request = contextvars.copy_context().run(RequestInProgress)
    yield request
    request.end()


async def _work_for_a_request(steps: list[str], name: str, *, slices: int = 0) -> None:
    request = RequestInProgress()
    request.slices = slices
    await _work(steps, name)
    request.end()


class TestBesideShortRequests:
    """A request that has used more than `_SLICES_AT_FULL_PACE` slices is slow."""

    @pytest.mark.usefixtures("short_request")
    async def test_slow_requests_together_use_a_quarter_of_the_time(self) -> None:
        steps: list[str] = []
        began_at = time.perf_counter()

        await asyncio.gather(
            *(_work_for_a_request(steps, name, slices=_SLICES_AT_FULL_PACE) for name in "abc")
        )

        assert time.perf_counter() - began_at >= 3 * STEPS * 4 * SLICE_SECONDS

    @pytest.mark.usefixtures("short_request")
    async def test_a_request_with_less_work_does_not_wait_for_slow_ones(self) -> None:
        steps: list[str] = []

        await asyncio.gather(
            *(_work_for_a_request(steps, name, slices=_SLICES_AT_FULL_PACE) for name in "abc"),
            _work_for_a_request(steps, "-"),
        )

        assert steps.index("-") < 4
        assert len(steps) - 1 - steps[::-1].index("-") < 3 * STEPS

    async def test_slow_requests_do_not_slow_each_other(self) -> None:
        steps: list[str] = []
        tasks = [
            asyncio.create_task(_work_for_a_request(steps, name, slices=_SLICES_AT_FULL_PACE))
            for name in "ab"
        ]
        await asyncio.sleep(0)  # each has its first slice

        assert steps == ["a", "b"]
        assert not has_short_request()
        await asyncio.gather(*tasks)

    async def test_a_request_that_used_little_lately_is_not_slow(self) -> None:
        request = RequestInProgress()
        request.slices = _SLICES_AT_FULL_PACE
        request.counted_at -= 60

        assert _count_slice() == 1
        request.end()

    async def test_a_request_that_waits_for_a_slot_is_not_short(self) -> None:
        queue = AdmissionQueue(1, queue_timeout_seconds=60, max_waiting=9)

        async def read() -> None:
            request = RequestInProgress()
            async with queue.slot("org_a"):
                pass
            request.end()

        async with queue.slot("org_b"):
            waiting = asyncio.create_task(read())
            await asyncio.sleep(0)
            assert not has_short_request()
        await waiting

    async def test_a_request_is_not_short_once_its_response_has_begun(
        self, short_request: RequestInProgress
    ) -> None:
        assert has_short_request()
        short_request.end()
        assert not has_short_request()

    @pytest.mark.usefixtures("short_request")
    async def test_a_request_that_waits_for_long_is_not_short(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("app.core.event_loop._SHORT_SECONDS", 0)

        assert not has_short_request()
