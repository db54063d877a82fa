"""Deletes expired rows of all organizations, by functions that the tables' owner owns: no other statement may."""

from enum import StrEnum

import sqlalchemy as sa

from app.database.repository import Repository
from app.database.statements import Query


class ExpiringRows(StrEnum):
    """Kinds of rows that expire. The value is the name of the function that deletes them."""

    IDEMPOTENCY_KEYS = "purge_idempotency_keys"
    RATE_COUNTERS = "purge_rate_counters"
    SPEND_RESERVATIONS = "purge_spend_reservations"
    WEBHOOK_DELIVERIES = "purge_webhook_deliveries"
    EXPORT_LINKS = "purge_export_links"


def _purge(rows: ExpiringRows) -> Query:
    function = getattr(sa.func, rows.value)
    return Query(sa.select(function(sa.bindparam("at_most", type_=sa.Integer)).label("purged")))


_PURGES = {rows: _purge(rows) for rows in ExpiringRows}


class ExpiredRowsRepository(Repository):
    """Expired rows of all organizations. Any number of instances may delete them concurrently."""

    async def purge(self, rows: ExpiringRows, *, at_most: int) -> int:
        """Delete expired rows of one kind; return how many. Fewer than `at_most`: none are left."""
        row = await self._session.one(_PURGES[rows], at_most=at_most)
        await self._session.commit()
        purged: int = row["purged"]
        return purged
