"""Concurrency limits: for all organizations together, and a quota for each of them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from app.core.errors import ByokError, ConcurrencyLimited
from app.core.event_loop import waits_for_slot

Prepare = Callable[[], Awaitable[None]]

# A preparation may take longer than tasks wait for a slot, because only its own organization waits for it: after a start,
# the statements of all combinations that are in use are new at once.
_PREPARATION_SECONDS = 10.0


@dataclass(slots=True)
class _Slots:
    """The slots of one organization, and how many tasks use or await one."""

    free: asyncio.Semaphore
    users: int = 0


class OrganizationSlots:
    """At most `quota` tasks of one organization at a time. Waiting tasks of one organization get slots in order."""

    def __init__(self, quota: int) -> None:
        self._quota = quota
        self._slots: dict[str, _Slots] = {}

    def is_free(self, organization_id: str) -> bool:
        """Whether the next `acquire` would not wait."""
        found = self._slots.get(organization_id)
        return found is None or not found.free.locked()

    def waiting(self, organization_id: str) -> int:
        """How many tasks of the organization wait for a slot."""
        found = self._slots.get(organization_id)
        return 0 if found is None else max(0, found.users - self._quota)

    async def acquire(self, organization_id: str) -> None:
        found = self._slots.setdefault(organization_id, _Slots(asyncio.Semaphore(self._quota)))
        found.users += 1
        try:
            await found.free.acquire()
        except BaseException:
            self._leave(organization_id, found)
            raise

    def release(self, organization_id: str) -> None:
        found = self._slots[organization_id]
        found.free.release()
        self._leave(organization_id, found)

    def _leave(self, organization_id: str, slots: _Slots) -> None:
        slots.users -= 1
        if slots.users == 0:
            del self._slots[organization_id]


class AdmissionQueue:
    """Limits concurrent bulk work, so that the rest of the API, and other organizations, keep database connections.

    Args:
        concurrency_limit: how many tasks may run at the same time. None: no limit but the quotas.
        per_organization: how many of them may belong to one organization. None: all.
        queue_timeout_seconds: how long a task waits for a slot before it is rejected.
        max_waiting: how many tasks of one organization may wait for its quota, and of all for the limit.
        error: what a rejected task raises.
    """

    def __init__(
        self,
        concurrency_limit: int | None,
        *,
        per_organization: int | None = None,
        queue_timeout_seconds: float,
        max_waiting: int,
        error: type[ByokError] = ConcurrencyLimited,
    ) -> None:
        self._slots = None if concurrency_limit is None else asyncio.Semaphore(concurrency_limit)
        self._quotas = None if per_organization is None else OrganizationSlots(per_organization)
        self.queue_timeout_seconds = queue_timeout_seconds
        self.max_waiting = max_waiting
        self._waiting = 0
        self._error = error

    @asynccontextmanager
    async def slot(
        self, organization_id: str, *, is_started: bool = False, prepare: Prepare | None = None
    ) -> AsyncIterator[None]:
        """Hold a slot.

        Args:
            organization_id: whose work it is.
            is_started: the work has begun before and cannot be rejected any more, so it waits as long as it takes.
            prepare: what comes before the work and may wait too. It holds the quota, so one organization has no more of
                them than tasks, but no common slot, which other organizations wait for.

        Raises:
            the error of this queue: it is full, or no slot became free before the timeout.
        """
        if is_started:
            await self._acquire_quota(organization_id)
            await self._prepare_and_acquire(organization_id, prepare, deadline=None)
        else:
            await self._acquire_in_time(organization_id, prepare)
        try:
            yield
        finally:
            self._release_both(organization_id)

    async def _acquire_in_time(self, organization_id: str, prepare: Prepare | None) -> None:
        waiting = 0 if self._quotas is None else self._quotas.waiting(organization_id)
        if max(waiting, self._waiting) >= self.max_waiting:
            raise self._error
        deadline = asyncio.get_running_loop().time() + self.queue_timeout_seconds
        try:
            async with asyncio.timeout_at(deadline):
                await self._acquire_quota(organization_id)
            await self._prepare_and_acquire(organization_id, prepare, deadline=deadline)
        except TimeoutError:
            raise self._error from None

    async def _acquire_quota(self, organization_id: str) -> None:
        """The quota comes first, so that an organization cannot fill the common queue."""
        if self._quotas is None:
            return
        if not self._quotas.is_free(organization_id):
            waits_for_slot()
        await self._quotas.acquire(organization_id)

    async def _prepare_and_acquire(
        self, organization_id: str, prepare: Prepare | None, *, deadline: float | None
    ) -> None:
        """Go on from the quota to a slot; without one, the quota is free again."""
        try:
            if prepare is not None:
                deadline = await _prepare(prepare, deadline)
            async with asyncio.timeout_at(deadline):
                await self._acquire_slot()
        except BaseException:
            if self._quotas is not None:
                self._quotas.release(organization_id)
            raise

    async def _acquire_slot(self) -> None:
        if self._slots is None:
            return
        if self._slots.locked():
            waits_for_slot()
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1

    def _release_both(self, organization_id: str) -> None:
        if self._slots is not None:
            self._slots.release()
        if self._quotas is not None:
            self._quotas.release(organization_id)


async def _prepare(prepare: Prepare, deadline: float | None) -> float | None:
    """Returns the deadline for a slot, which moves by the time that this has taken."""
    if deadline is None:
        await prepare()
        return None
    clock = asyncio.get_running_loop().time
    began_at = clock()
    async with asyncio.timeout_at(max(deadline, began_at + _PREPARATION_SECONDS)):
        await prepare()
    return deadline + clock() - began_at
