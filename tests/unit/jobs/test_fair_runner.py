"""Items that a runner has claimed are run, also if it is cancelled while they start: no other worker sees them for a while."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import cast
from uuid import UUID

import pytest

from app.database.unit_of_work import UnitsOfWork
from app.jobs import fair_runner
from app.jobs.fair_runner import FairConcurrency, FairRunner
from app.jobs.queue import DueItem, JobKind

ITEMS = 3


class Claimed(FairRunner):
    """A runner that finds some due items, once."""

    def __init__(self, done: list[UUID]) -> None:
        self._due = [
            DueItem(organization_id="org_1", kind=JobKind.REVALIDATE, id=UUID(int=number))
            for number in range(ITEMS)
        ]

        async def work(item: DueItem) -> None:
            await asyncio.sleep(0.01)
            done.append(item.id)

        super().__init__(
            cast("UnitsOfWork", None),
            JobKind.REVALIDATE,
            work,
            concurrency=FairConcurrency(total=ITEMS, per_organization=ITEMS),
            visibility_timeout=timedelta(seconds=30),
        )

    async def _claim(self, at_most: int, in_progress: list[str]) -> Sequence[DueItem]:  # noqa: ARG002  # as it is called
        due, self._due = self._due, []
        return due


async def test_claimed_items_run_after_a_cancellation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_runner, "START_SECONDS", 10)
    monkeypatch.setattr(fair_runner, "has_short_request", lambda: True)
    done: list[UUID] = []
    running = asyncio.create_task(Claimed(done).run())
    await asyncio.sleep(0.05)
    assert len(done) == 1  # the others wait for their start

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert sorted(done) == [UUID(int=number) for number in range(ITEMS)]
