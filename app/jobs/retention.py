"""Deletes expired rows: idempotency keys, rate counters, spend reservations, webhook deliveries and links."""

import asyncio

import structlog

from app.core.errors import DatabaseUnavailable
from app.database.unit_of_work import UnitsOfWork
from app.jobs.retention_repository import ExpiredRowsRepository, ExpiringRows

# Takes a tenth of a second. One organization may have a million expired rows, and a statement five seconds.
ROWS_AT_ONCE = 5_000

log = structlog.get_logger("byok.jobs")


class ExpiredRowsWorker:
    """Runs in short transactions. If a run is interrupted, the next one continues.

    Args:
        units: opens the transactions.
        rows_at_once: how many rows a transaction deletes.
    """

    def __init__(self, units: UnitsOfWork, *, rows_at_once: int = ROWS_AT_ONCE) -> None:
        self._units = units
        self._rows_at_once = rows_at_once

    async def run(self, stop: asyncio.Event | None = None) -> None:
        """Delete all rows that have expired, or until `stop` is set.

        If those of one kind cannot be deleted now, the others are all the same.

        Raises:
            DatabaseUnavailable: rows of some kind are left.
        """
        failed: DatabaseUnavailable | None = None
        for rows in ExpiringRows:
            try:
                await self._purge(rows, stop)
            except DatabaseUnavailable as error:
                log.warning("purge_postponed", rows=rows.name.lower(), code=error.code)
                failed = error
        if failed is not None:
            raise failed

    async def _purge(self, rows: ExpiringRows, stop: asyncio.Event | None) -> None:
        while stop is None or not stop.is_set():
            async with self._units.unscoped(ExpiredRowsRepository) as (expired, _):
                purged = await expired.purge(rows, at_most=self._rows_at_once)
            if purged < self._rows_at_once:
                return
