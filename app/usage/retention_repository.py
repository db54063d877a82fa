"""Partitions of the ledger: made ahead, dropped when their last row is past retention. By owner-owned functions."""

from datetime import datetime

import sqlalchemy as sa

from app.database.engine import Query, Session
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


class UsageRetentionRepository:
    """What has been kept long enough. Any number of instances may run this at once."""

    def __init__(self, session: Session, organization_id: str = "") -> None:  # noqa: ARG002  # of all
        self._session = session

    async def ensure_partitions(self, *, starting_at: datetime, ending_at: datetime) -> int:
        """Make the months that are missing; how many were."""
        return await self._run(_ENSURE, starting_at=starting_at, ending_at=ending_at)

    async def drop_partitions(self, *, older_than: datetime) -> int:
        """Drop the months that ended before; how many did. Gives way to long reads: they come first."""
        return await self._run(_DROP, older_than=older_than)

    async def purge_keys(self, *, older_than: datetime, at_most: int) -> int:
        """Forget event ids of months that were dropped; how many. Less than `at_most`: for now there are no more."""
        return await self._run(_PURGE, older_than=older_than, at_most=at_most)

    async def _run(self, statement: Query, **values: datetime | int) -> int:
        row = await self._session.first(statement, **values)
        assert row is not None
        await self._session.commit()
        done: int = row["done"]
        return done
