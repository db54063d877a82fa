"""Keeps the ledger's partitions: the months ahead are there before anybody needs them, old ones go whole."""

from datetime import timedelta

import structlog

from app.core.clock import now
from app.database.unit_of_work import UnitsOfWork
from app.usage.records import FURTHEST_BACK
from app.usage.retention_repository import UsageRetentionRepository

# So far ahead partitions are made: jobs may be down for weeks and ingestion goes on.
AHEAD = timedelta(days=62)
KEYS_AT_ONCE = 5_000

log = structlog.get_logger(__name__)


class UsageRetentionWorker:
    """One step at a time, each in a transaction of its own: whatever stops it, the next run goes on.

    Args:
        units: where the ledger is.
        keep_for: how long rows are kept at least; whole months go.
    """

    def __init__(self, units: UnitsOfWork, *, keep_for: timedelta) -> None:
        self._units = units
        self._keep_for = keep_for

    async def run(self) -> None:
        """Raises DatabaseUnavailable, also where somebody reads what is to go: it goes next time then."""
        instant = now()
        async with self._units.across(UsageRetentionRepository) as (ledger, _):
            made = await ledger.ensure_partitions(
                starting_at=instant - FURTHEST_BACK - timedelta(days=1), ending_at=instant + AHEAD
            )
        older_than = instant - self._keep_for
        async with self._units.across(UsageRetentionRepository) as (ledger, _):
            dropped = await ledger.drop_partitions(older_than=older_than)
        purged = 0
        while True:
            async with self._units.across(UsageRetentionRepository) as (ledger, _):
                found = await ledger.purge_keys(older_than=older_than, at_most=KEYS_AT_ONCE)
            purged += found
            if found < KEYS_AT_ONCE:
                break
        if made or dropped or purged:
            log.info("usage_retention", partitions_made=made, partitions_dropped=dropped, keys_purged=purged)
