"""Deletes audit events after their retention, which bounds how many rows an organization can have."""

from datetime import timedelta

import structlog

from app.audit.repository import AuditRetentionRepository
from app.core.clock import now
from app.database.unit_of_work import UnitsOfWork

EVENTS_AT_ONCE = 5_000

log = structlog.get_logger("byok.audit")


class AuditRetentionWorker:
    """Runs in short transactions. If a run is interrupted, the next one continues.

    Args:
        units: opens the transactions.
        keep_for: how long events are kept. None: for ever.
    """

    def __init__(self, units: UnitsOfWork, *, keep_for: timedelta | None) -> None:
        self._units = units
        self._keep_for = keep_for

    async def run(self) -> None:
        """Delete the events that are older than the retention.

        Raises:
            DatabaseUnavailable
        """
        if self._keep_for is None:
            return
        older_than, deleted = now() - self._keep_for, 0
        while True:
            async with self._units.unscoped(AuditRetentionRepository) as (audit_log, _):
                found = await audit_log.purge(older_than=older_than, at_most=EVENTS_AT_ONCE)
            deleted += found
            if found < EVENTS_AT_ONCE:
                break
        if deleted:
            log.info("audit_events_deleted", deleted=deleted)
