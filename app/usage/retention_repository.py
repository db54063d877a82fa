"""Creates and drops the ledger's partitions, by functions that the tables' owner owns."""

from datetime import datetime

import sqlalchemy as sa

from app.database.repository import Repository
from app.database.statements import Query
from app.usage.tables import usage_event as t

_INSTANT = t.c.started_at.type
_ENSURE = Query(
    sa.select(
        sa.func.ensure_usage_partitions(
            sa.bindparam("starting_at", type_=_INSTANT), sa.bindparam("ending_at", type_=_INSTANT)
        ).label("done")
    )
)
_DROP = Query(
    sa.select(sa.func.drop_usage_partitions(sa.bindparam("older_than", type_=_INSTANT)).label("done"))
)
_PURGE = Query(
    sa.select(
        sa.func.purge_usage_event_keys(
            sa.bindparam("older_than", type_=_INSTANT), sa.bindparam("at_most", type_=sa.Integer)
        ).label("done")
    )
)


class UsageRetentionRepository(Repository):
    """Retention of the ledger. Any number of instances may run it concurrently."""

    async def ensure_partitions(self, *, starting_at: datetime, ending_at: datetime) -> int:
        """Create the missing monthly partitions; return how many."""
        return await self._run(_ENSURE, starting_at=starting_at, ending_at=ending_at)

    async def drop_partitions(self, *, older_than: datetime) -> int:
        """Drop the months that ended before `older_than`; return how many.

        Raises:
            DatabaseUnavailable: a long read blocked it for one second.
        """
        return await self._run(_DROP, older_than=older_than)

    async def purge_keys(self, *, older_than: datetime, at_most: int) -> int:
        """Delete event ids of dropped months; return how many. Fewer than `at_most` means that none are left."""
        return await self._run(_PURGE, older_than=older_than, at_most=at_most)

    async def _run(self, statement: Query, **values: datetime | int) -> int:
        row = await self._session.one(statement, **values)
        await self._session.commit()
        done: int = row["done"]
        return done
