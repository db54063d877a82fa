"""Counts requests per organization, kind and minute. The counters are exact across instances."""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.database.repository import Repository
from app.database.statements import Query
from app.rate_limits.tables import rate_counter as t

_COUNT = Query(
    insert(t)
    .values(
        organization_id=sa.bindparam("organization_id", type_=sa.Text),
        kind=sa.bindparam("kind", type_=sa.Text),
        minute=sa.bindparam("minute", type_=t.c.minute.type),
        requests=sa.literal_column("1"),
    )
    .on_conflict_do_update(
        index_elements=[t.c.organization_id, t.c.kind, t.c.minute],
        set_={"requests": t.c.requests + sa.literal_column("1")},
    )
    .returning(t.c.requests)
)


class RateLimitRepository(Repository):
    """Counters with fixed windows of one minute."""

    async def count(self, kind: str, *, now: datetime) -> int:
        """Count one request and return the number of requests in this minute."""
        minute = now.replace(second=0, microsecond=0)
        row = await self._session.one(_COUNT, organization_id=self._organization_id, kind=kind, minute=minute)
        requests: int = row["requests"]
        return requests
