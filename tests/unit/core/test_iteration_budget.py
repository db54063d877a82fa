"""Pieces of work that are ready together run in later iterations of the event loop, in their order."""

import asyncio
import time
from itertools import pairwise

import pytest

from app.core.event_loop import BUDGET_SECONDS, IterationBudget

PIECES = 200


def use(seconds: float) -> None:
    ends_at = time.perf_counter() + seconds
    while time.perf_counter() < ends_at:
        pass


async def _piece(budget: IterationBudget, steps: list[str], name: str, seconds: float = 0) -> None:
    await budget.wait()
    steps.append(name)
    use(seconds)


async def _record_iterations(steps: list[str]) -> None:
    while True:
        steps.append("-")
        await asyncio.sleep(0)


class TestIterationBudget:
    async def test_short_pieces_of_one_task_do_not_wait(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("app.core.event_loop.BUDGET_SECONDS", 60)
        budget, steps = IterationBudget(), list[str]()
        other = asyncio.create_task(_record_iterations(steps))

        for name in "abc":
            await _piece(budget, steps, name)

        assert steps == ["a", "b", "c"]
        other.cancel()

    async def test_long_pieces_run_in_separate_iterations(self) -> None:
        budget, steps = IterationBudget(), list[str]()
        other = asyncio.create_task(_record_iterations(steps))

        await asyncio.gather(*(_piece(budget, steps, name, BUDGET_SECONDS) for name in "abcdef"))

        other.cancel()
        assert [step for step in steps if step != "-"] == list("abcdef")
        assert not any(one != "-" and two != "-" for one, two in pairwise(steps))

    async def test_short_pieces_share_an_iteration(self) -> None:
        budget, steps = IterationBudget(), list[str]()
        other = asyncio.create_task(_record_iterations(steps))

        await asyncio.gather(*(_piece(budget, steps, "p", BUDGET_SECONDS / 20) for _ in range(PIECES)))

        other.cancel()
        assert steps.count("p") == PIECES
        # At least 10 iterations. A busy machine may use up the time of more, but hardly that of all.
        assert "pp" in "".join(steps)
        assert "p" * PIECES not in "".join(steps)

    async def test_new_pieces_do_not_overtake_those_that_wait(self) -> None:
        budget, steps = IterationBudget(), list[str]()
        waiting = [asyncio.create_task(_piece(budget, steps, name, BUDGET_SECONDS)) for name in "abcd"]
        await asyncio.sleep(0)

        await _piece(budget, steps, "new")

        await asyncio.gather(*waiting)
        assert steps == ["a", "b", "c", "d", "new"]

    async def test_cancelled_pieces_leave_the_line(self) -> None:
        """Also those that are woken already, and even if all that are woken are cancelled."""
        budget, steps = IterationBudget(), list[str]()
        tasks = [
            asyncio.create_task(_piece(budget, steps, str(number), BUDGET_SECONDS))
            for number in range(PIECES)
        ]
        await asyncio.sleep(0)  # the first one runs, the others wait
        await asyncio.sleep(0)  # some are woken

        for task in tasks[:-1]:
            task.cancel()

        async with asyncio.timeout(5):
            await asyncio.gather(*tasks, return_exceptions=True)
        assert steps[-1] == str(PIECES - 1)
        assert len(steps) < PIECES / 2

    async def test_few_are_woken_without_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        looks = 0
        has_time = IterationBudget._has_time

        def count(budget: IterationBudget) -> bool:
            nonlocal looks
            looks += 1
            return has_time(budget)

        monkeypatch.setattr(IterationBudget, "_has_time", count)
        budget, steps = IterationBudget(), list[str]()

        await asyncio.gather(*(_piece(budget, steps, "p", BUDGET_SECONDS / 4) for _ in range(PIECES)))

        assert len(steps) == PIECES
        assert looks < 3 * PIECES
