"""Runs due items of one kind concurrently, with a quota for each organization. Any number of instances may do so."""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from app.core.clock import now
from app.core.event_loop import has_short_request
from app.database.unit_of_work import UnitsOfWork
from app.jobs.queue import DueItem, JobKind, QueueRepository

# The runner looks for new due items at least this often, even if all running items are slow.
_POLL_SECONDS = 1.0

# Beside short requests, at most one item starts within this time. Together, sixteen of them would delay a request by the
# first steps of all.
START_SECONDS = 0.005

_Running: TypeAlias = dict[asyncio.Task[None], str]  # running items with their organizations


@dataclass(frozen=True, slots=True, kw_only=True)
class FairConcurrency:
    """How many items run at once in this instance, and how many of them may belong to one organization."""

    total: int
    per_organization: int


class FairRunner:
    """Claims due items and runs them. Many or slow items of an organization delay only its own.

    Args:
        units: opens transactions on the queue.
        kind: the items to claim.
        work: runs one item. It removes or reschedules the item, and raises nothing.
        concurrency: how many items run at once.
        visibility_timeout: longer than an item can take. After it, the worker that claimed the item counts as dead.
    """

    def __init__(
        self,
        units: UnitsOfWork,
        kind: JobKind,
        work: Callable[[DueItem], Awaitable[None]],
        *,
        concurrency: FairConcurrency,
        visibility_timeout: timedelta,
    ) -> None:
        self._units = units
        self._kind = kind
        self._work = work
        self._concurrency = concurrency
        self._visibility_timeout = visibility_timeout
        self._started_at = 0.0

    async def run(self, stop: asyncio.Event | None = None) -> int:
        """Run until nothing is due or `stop` is set. Claims nothing after that, and waits for running items.

        Returns the number of items.

        Raises:
            DatabaseUnavailable
        """
        started = 0
        running: _Running = {}
        try:
            while True:
                if stop is None or not stop.is_set():
                    started += await self._start_due(running)
                if not running:
                    return started
                done, _ = await asyncio.wait(
                    running, timeout=_POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    del running[task]
                    task.result()
        finally:
            await asyncio.gather(*running, return_exceptions=True)

    async def _start_due(self, running: _Running) -> int:
        """Start due items until all slots are used or nothing more is due. Returns the number started."""
        started = 0
        while free := self._concurrency.total - len(running):
            at_quota = self._at_quota(running)
            due = await self._claim(free, list(running.values()))
            await self._start(due, running)
            started += len(due)
            # If an organization has just reached its quota, due items of others may have been hidden behind its own.
            if self._at_quota(running) == at_quota:
                break
        return started

    async def _start(self, due: Sequence[DueItem], running: _Running) -> None:
        remaining = deque(due)
        try:
            while remaining:
                await self._wait_for_start()
                self._start_one(remaining.popleft(), running)
        finally:
            # After a cancellation. No other worker could run them before the visibility timeout.
            for item in remaining:
                self._start_one(item, running)

    async def _wait_for_start(self) -> None:
        time = asyncio.get_running_loop().time
        left = self._started_at + START_SECONDS - time()
        if left > 0 and has_short_request():
            await asyncio.sleep(left)
        self._started_at = time()

    def _start_one(self, item: DueItem, running: _Running) -> None:
        running[asyncio.create_task(self._run_one(item))] = item.organization_id

    async def _run_one(self, item: DueItem) -> None:
        await self._work(item)

    def _at_quota(self, running: _Running) -> set[str]:
        """Return the organizations that have no free slot."""
        counts = Counter(running.values())
        quota = self._concurrency.per_organization
        return {organization for organization, count in counts.items() if count >= quota}

    async def _claim(self, at_most: int, in_progress: list[str]) -> Sequence[DueItem]:
        async with self._units.unscoped(QueueRepository) as (queue, session):
            # Claim only as many as can start now. A waiting item could become visible to another worker again.
            due = await queue.claim_fairly(
                self._kind,
                now=now(),
                at_most=at_most,
                visibility_timeout=self._visibility_timeout,
                in_progress=in_progress,
                per_organization=self._concurrency.per_organization,
            )
            await session.commit()
        return due
