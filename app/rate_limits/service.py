"""Limits on requests per organization and minute."""

from enum import StrEnum

from app.core.clock import now
from app.core.errors import RateLimited
from app.database.unit_of_work import UnitsOfWork
from app.rate_limits.repository import RateLimitRepository


class RateLimitKind(StrEnum):
    """What is counted together."""

    CREDENTIAL_WRITES = "credential_writes"  # create, rotate and validate
    URL_CHECKS = "url_checks"
    SPEND_LIMIT_WRITES = "spend_limit_writes"  # set, change and delete


class RateLimiter:
    """Counts in the database, so that all instances count together."""

    def __init__(self, units: UnitsOfWork, per_minute: dict[RateLimitKind, int]) -> None:
        self._units = units
        self._per_minute = per_minute

    async def admit(self, organization_id: str, kind: RateLimitKind) -> None:
        """Count one request.

        Raises:
            RateLimited: with the seconds until the next minute.
        """
        instant = now()
        async with self._units.writing(organization_id) as uow:
            requests = await uow[RateLimitRepository].count(kind, now=instant)
            await uow.commit()
        if requests > self._per_minute[kind]:
            raise RateLimited(retry_after_seconds=60 - instant.second)
