"""Rate limits: requests per organization and minute."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from enum import StrEnum

from app.core.clock import now
from app.core.errors import RateLimited
from app.database.unit_of_work import UnitsOfWork
from app.rate_limits.repository import RateLimitRepository


class RateLimitKind(StrEnum):
    """Requests that share a counter."""

    CREDENTIAL_WRITES = "credential_writes"  # create, rotate and validate
    URL_CHECKS = "url_checks"
    SPEND_LIMIT_WRITES = "spend_limit_writes"  # set, change and delete


class WriteKind(StrEnum):
    """Writes that share a counter of `WriteLimiter`."""

    CHANGES = "changes"  # of credentials, usage mode, limits, prices, subscriptions, endpoints
    WORK = "work"  # reservations, leases and batches of usage events


class WriteLimiter:
    """Limits all writes of an organization per minute, in this process.

    It costs no transaction, so a flood of requests does not reach the database. `RateLimiter` then counts the few kinds
    whose limit is exact across instances.

    Args:
        per_minute: the limits.
        clock: seconds; tests replace it.
    """

    def __init__(
        self, per_minute: Mapping[WriteKind, int], *, clock: Callable[[], float] = time.time
    ) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._minute = 0
        self._counts: Counter[tuple[str, WriteKind]] = Counter()

    def admit(self, organization_id: str, kind: WriteKind) -> None:
        """Count one request.

        Raises:
            RateLimited: the limit is exceeded. Carries the seconds until the next minute.
        """
        minute, second = divmod(int(self._clock()), 60)
        if minute != self._minute:
            self._minute = minute
            self._counts.clear()
        self._counts[organization_id, kind] += 1
        if self._counts[organization_id, kind] > self._per_minute[kind]:
            raise RateLimited(retry_after_seconds=60 - second)


class RateLimiter:
    """Counts requests in the database, so that the limits hold across instances."""

    def __init__(self, units: UnitsOfWork, per_minute: dict[RateLimitKind, int]) -> None:
        self._units = units
        self._per_minute = per_minute

    async def admit(self, organization_id: str, kind: RateLimitKind) -> None:
        """Count one request.

        Raises:
            RateLimited: the limit is exceeded. Carries the seconds until the next minute.
        """
        instant = now()
        async with self._units.writing(organization_id) as uow:
            requests = await uow[RateLimitRepository].count(kind, now=instant)
            await uow.commit()
        if requests > self._per_minute[kind]:
            raise RateLimited(retry_after_seconds=60 - instant.second)
