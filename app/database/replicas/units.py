"""Units of work that read from a streaming replica while it responds."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime

import sqlalchemy as sa
import structlog

from app.core.errors import DatabaseUnavailable
from app.database.engine import Database
from app.database.replicas.positions import PrimaryPositions
from app.database.sessions import Session
from app.database.statements import Query
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.observability.metrics import USAGE_READS

_SAMPLE_SECONDS = 1.0
_RETRY_SECONDS = 10.0

log = structlog.get_logger("byok.database")


def _bytes(position: str) -> str:
    return f"CAST({position} - CAST('0/0' AS pg_lsn) AS bigint)"


# PostgreSQL evaluates columns from left to right: what was committed before the time is before the position.
_OF_PRIMARY = Query(
    sa.text(
        "SELECT clock_timestamp() AS time, CASE WHEN NOT pg_is_in_recovery()"
        f" THEN {_bytes('pg_current_wal_insert_lsn()')} END AS position"
    )
)
_OF_REPLICA = Query(
    sa.text(
        "SELECT pg_last_xact_replay_timestamp() AS replayed_until, CASE WHEN pg_is_in_recovery()"
        f" THEN {_bytes('pg_last_wal_replay_lsn()')} ELSE {_bytes('pg_current_wal_insert_lsn()')} END AS position"
    )
)


class ReplicaUnits(UnitsOfWork):
    """Units of work of the primary, but bulk reads come from the replica while it responds.

    Args:
        primary: the database of the service.
        replica: the same login on a streaming replica of it.
        retry_seconds: how long reads use the primary after the replica did not respond, so that not every one of them
            waits for it.
    """

    def __init__(
        self, primary: Database, replica: Database, *, retry_seconds: float = _RETRY_SECONDS
    ) -> None:
        super().__init__(primary)
        self._primary = primary
        self._replica = replica
        self._positions = PrimaryPositions()
        self._retry_seconds = retry_seconds
        self._avoided_until = 0.0

    @asynccontextmanager
    async def reading_in_bulk(self, organization_id: str) -> AsyncIterator[UnitOfWork]:
        """Open a read-only unit of work on the replica or, if it does not respond, on the primary."""
        async with AsyncExitStack() as stack:
            unit = await self._open_on_replica(stack, organization_id)
            if unit is None:
                unit = await stack.enter_async_context(super().reading_in_bulk(organization_id))
            USAGE_READS.labels("primary" if unit.complete_until is None else "replica").inc()
            yield unit

    async def _open_on_replica(self, stack: AsyncExitStack, organization_id: str) -> UnitOfWork | None:
        """A unit of work on the replica; None if it does not respond or nothing is known of its delay."""
        clock = asyncio.get_running_loop().time
        if clock() < self._avoided_until:
            return None
        try:
            async with AsyncExitStack() as opened:
                session = await opened.enter_async_context(
                    self._replica.session(organization_id, read_only=True, is_bulk=True)
                )
                complete_until = await self._complete_until(session)
                if complete_until is None:
                    return None
                await stack.enter_async_context(opened.pop_all())
                return UnitOfWork(session, organization_id, complete_until=complete_until)
        except DatabaseUnavailable:
            self._avoided_until = clock() + self._retry_seconds
            log.warning("reports_database_unavailable", seconds=self._retry_seconds)
            return None

    async def _complete_until(self, session: Session) -> datetime | None:
        """Read before the snapshot of the statements that follow, which therefore show at least as much.

        None while the replica may lack migrations that the statements need.
        """
        found = await session.one(_OF_REPLICA)
        replayed: datetime | None = found["replayed_until"]
        if not self._positions.has_replayed_start(found["position"]):
            return None
        known = self._positions.complete_until(found["position"])
        return max((time for time in (replayed, known) if time is not None), default=None)

    async def sample_primary(self) -> None:
        """Note the position of the primary.

        Raises:
            DatabaseUnavailable
        """
        async with self._primary.session(None, read_only=True) as session:
            found = await session.one(_OF_PRIMARY)
        if found["position"] is not None:
            self._positions.add(found["time"], found["position"])


@asynccontextmanager
async def replica_units(primary: Database, replica: Database) -> AsyncIterator[UnitsOfWork]:
    """Units of work whose bulk reads come from the replica. Samples the primary until the block ends."""
    units = ReplicaUnits(primary, replica)
    sampling = asyncio.create_task(_keep_sampling(units), name="positions of the primary")
    try:
        yield units
    finally:
        sampling.cancel()
        await asyncio.wait([sampling])


async def _keep_sampling(units: ReplicaUnits) -> None:
    while True:
        pause = _SAMPLE_SECONDS
        try:
            await units.sample_primary()
        except DatabaseUnavailable:
            pause = _RETRY_SECONDS
        await asyncio.sleep(pause)
