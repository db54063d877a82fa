"""The base class of all repositories."""

import sqlalchemy as sa

from app.database.sessions import Session
from app.database.statements import Query

# A statement without a table, so that Citus runs it on the coordinator. In a statement with one it could be the number of
# the worker's transaction, which cannot be compared.
_TRANSACTION_ID = Query(sa.text("SELECT CAST(CAST(pg_current_xact_id() AS text) AS bigint) AS id"))


class Repository:
    """SQL of one feature, run in one unit of work for one organization.

    Args:
        session: the transaction.
        organization_id: whose rows; empty for tables outside any organization.
    """

    def __init__(self, session: Session, organization_id: str) -> None:
        self._session = session
        self._organization_id = organization_id

    async def _transaction_id(self) -> int:
        """The number of this transaction, for rows that are rolled up by it."""
        row = await self._session.one(_TRANSACTION_ID)
        found: int = row["id"]
        return found
