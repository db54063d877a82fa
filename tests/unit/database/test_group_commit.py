"""Group commit: items of a key that wait together run together, and each gets its own result."""

import asyncio
from collections.abc import Sequence

import pytest

from app.core.errors import DatabaseUnavailable, NotFound
from app.database.group_commit import GroupCommit, WaitLimits


class Runs:
    """Records groups. A group waits until it may run; an item that contains "bad" fails its transaction."""

    def __init__(self, error: Exception | None = None) -> None:
        self.groups: list[tuple[str, list[str]]] = []
        self.may_run = asyncio.Event()
        self._error = error or ValueError("bad")

    async def __call__(self, key: str, items: Sequence[str]) -> Sequence[str | Exception]:
        self.groups.append((key, list(items)))
        await self.may_run.wait()
        if any("bad" in item for item in items):
            raise self._error
        return [NotFound() if item == "refused" else item.upper() for item in items]


async def submitted(groups: GroupCommit[str, str], *items: str, key: str = "org") -> list[asyncio.Task[str]]:
    """Submit the items one after the other; returns when all wait or run."""
    tasks = [asyncio.create_task(groups.submit(key, item)) for item in items]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def test_a_lone_item_runs_at_once_and_later_ones_share_the_next_group() -> None:
    runs = Runs()
    groups = GroupCommit(runs, at_most=10)
    tasks = await submitted(groups, "a")
    tasks += await submitted(groups, "b", "c")
    runs.may_run.set()

    assert await asyncio.gather(*tasks) == ["A", "B", "C"]
    assert runs.groups == [("org", ["a"]), ("org", ["b", "c"])]


async def test_keys_do_not_wait_for_each_other() -> None:
    runs = Runs()
    groups = GroupCommit(runs, at_most=10)
    await submitted(groups, "a", key="one")
    await submitted(groups, "b", key="two")

    assert runs.groups == [("one", ["a"]), ("two", ["b"])]


async def test_groups_are_bounded_by_weight_in_order() -> None:
    runs = Runs()
    groups = GroupCommit(runs, at_most=4, weight=len)
    tasks = await submitted(groups, "first")
    tasks += await submitted(groups, "ab", "cd", "e", "fghijk", "l")
    runs.may_run.set()
    await asyncio.gather(*tasks)

    assert [items for _, items in runs.groups] == [["first"], ["ab", "cd"], ["e"], ["fghijk"], ["l"]]


async def test_each_item_gets_its_own_error() -> None:
    runs = Runs()
    groups = GroupCommit(runs, at_most=10)
    tasks = await submitted(groups, "x")
    tasks += await submitted(groups, "refused", "y")
    runs.may_run.set()

    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert [results[0], results[2]] == ["X", "Y"]
    assert isinstance(results[1], NotFound)


async def test_an_item_that_fails_its_transaction_does_not_affect_the_others() -> None:
    runs = Runs()
    groups = GroupCommit(runs, at_most=10)
    tasks = await submitted(groups, "x")
    tasks += await submitted(groups, "y", "bad", "z")
    runs.may_run.set()

    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert [results[0], results[1], results[3]] == ["X", "Y", "Z"]
    assert isinstance(results[2], ValueError)
    assert [items for _, items in runs.groups][2:] == [["y"], ["bad"], ["z"]]


async def test_does_not_try_again_without_a_database() -> None:
    runs = Runs(DatabaseUnavailable())
    groups = GroupCommit(runs, at_most=10)
    tasks = await submitted(groups, "x")
    tasks += await submitted(groups, "y", "bad")
    runs.may_run.set()

    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert results[0] == "X"
    assert all(isinstance(result, DatabaseUnavailable) for result in results[1:])
    assert len(runs.groups) == 2


async def test_a_caller_that_left_is_dropped_before_its_group_starts() -> None:
    runs = Runs()
    groups = GroupCommit(runs, at_most=10)
    (first,) = await submitted(groups, "a")
    left, stays = await submitted(groups, "b", "c")
    left.cancel()
    await asyncio.sleep(0)
    runs.may_run.set()

    assert [await first, await stays] == ["A", "C"]
    assert [items for _, items in runs.groups] == [["a"], ["c"]]
    with pytest.raises(asyncio.CancelledError):
        await left


async def test_a_caller_that_leaves_a_running_group_does_not_stop_it() -> None:
    runs = Runs()
    groups = GroupCommit(runs, at_most=10)
    (first,) = await submitted(groups, "a")
    first.cancel()
    (second,) = await submitted(groups, "b")
    runs.may_run.set()

    assert await second == "B"


async def test_an_item_waits_only_as_long_as_it_may() -> None:
    runs = Runs()
    limits = WaitLimits(seconds=0.01, at_most=10, error=NotFound)
    groups = GroupCommit(runs, at_most=10, limits=limits)
    (first,) = await submitted(groups, "a")

    with pytest.raises(NotFound):
        await groups.submit("org", "b")
    runs.may_run.set()

    assert await first == "A"
    assert [items for _, items in runs.groups] == [["a"]]


async def test_a_bounded_number_of_items_of_each_key_waits() -> None:
    runs = Runs()
    limits = WaitLimits(seconds=60, at_most=2, error=NotFound)
    groups = GroupCommit(runs, at_most=10, limits=limits)
    tasks = await submitted(groups, "a")
    tasks += await submitted(groups, "b", "c")

    with pytest.raises(NotFound):
        await groups.submit("org", "d")
    others = [asyncio.create_task(groups.submit("org_other", item)) for item in "de"]
    await asyncio.sleep(0)
    runs.may_run.set()

    assert await asyncio.gather(*tasks, *others) == ["A", "B", "C", "D", "E"]
