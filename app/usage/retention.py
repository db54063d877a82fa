"""Creates the ledger's monthly partitions in advance and drops whole months after the retention period."""

from datetime import timedelta

import structlog

from app.core.clock import now
from app.database.unit_of_work import UnitsOfWork
from app.usage.retention_repository import UsageRetentionRepository
from app.usage_events.records import MAX_EVENT_AGE

# How far in advance partitions are created: ingestion continues even if jobs do not run for weeks.
AHEAD = timedelta(days=62)
KEYS_AT_ONCE = 5_000

log = structlog.get_logger("byok.usage")


class UsageRetentionWorker:
    """Runs each step in its own transaction. If a run is interrupted, the next one continues.

    Args:
        units: access to the database of the ledger.
        keep_for: how long rows are kept at least. Only whole months are dropped.
    """

    def __init__(self, units: UnitsOfWork, *, keep_for: timedelta) -> None:
        self._units = units
        self._keep_for = keep_for

    async def run(self) -> None:
        """Create missing partitions, drop old ones, and delete their event ids.

        Raises:
            DatabaseUnavailable: also if a long read uses a partition that should be dropped. The next run drops it.
        """
        instant = now()
        async with self._units.unscoped(UsageRetentionRepository) as (ledger, _):
            created = await ledger.ensure_partitions(
                starting_at=instant - MAX_EVENT_AGE - timedelta(days=1), ending_at=instant + AHEAD
            )
        older_than = instant - self._keep_for
        async with self._units.unscoped(UsageRetentionRepository) as (ledger, _):
            dropped = await ledger.drop_partitions(older_than=older_than)
        deleted = 0
        while True:
            async with self._units.unscoped(UsageRetentionRepository) as (ledger, _):
                found = await ledger.purge_keys(older_than=older_than, at_most=KEYS_AT_ONCE)
            deleted += found
            if found < KEYS_AT_ONCE:
                break
        if created or dropped or deleted:
            log.info(
                "usage_retention",
                partitions_created=created,
                partitions_dropped=dropped,
                event_ids_deleted=deleted,
            )
