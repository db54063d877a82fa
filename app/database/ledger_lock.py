"""The organization's ledger lock, an advisory lock of PostgreSQL. No other module spells its key.

The database function `reserve_spend` takes it too. A test checks that it waits for it.

Ingestion, reservations and price backfills take it shared. A change of the usage mode, of spend limits, of price
overrides or of the subscription, and the closing of a month, take it exclusively.
"""

from datetime import datetime

import sqlalchemy as sa

from app.database.repository import Repository
from app.database.statements import FixedStatement, Query

_KEY = "hashtext('byok.usage_mode'), hashtext(CAST(:organization_id AS text))"
_LOCK = Query(sa.text(f"SELECT pg_advisory_xact_lock({_KEY})"))
_TRY_LOCK = Query(sa.text(f"SELECT pg_try_advisory_xact_lock({_KEY}) AS is_held"))
# PostgreSQL evaluates columns from left to right, so it reads the clock while the lock is held.
_LOCK_SHARED = Query(sa.text(f"SELECT pg_advisory_xact_lock_shared({_KEY}), clock_timestamp() AS now"))

# The shared lock in the round trip that begins the transaction. Later statements see the changes that were committed
# while it waited. The statement that takes a lock still sees the state before them.
BEGIN_WITH_SHARED_LOCK = FixedStatement(
    sa.text(
        "SELECT pg_advisory_xact_lock_shared("
        "hashtext('byok.usage_mode'), hashtext(current_setting('byok.org')))"
    )
)


class LedgerLock(Repository):
    """The ledger lock of one organization, held until the transaction ends."""

    async def lock_shared(self) -> datetime:
        """Wait until no other transaction holds the lock exclusively; returns the database's time after that."""
        row = await self._session.one(_LOCK_SHARED, organization_id=self._organization_id)
        now: datetime = row["now"]
        return now

    async def lock_exclusively(self) -> None:
        """Wait until no other transaction holds the lock, shared or exclusively."""
        await self._session.first(_LOCK, organization_id=self._organization_id)

    async def try_lock_exclusively(self) -> bool:
        """Like `lock_exclusively`, but return False instead of waiting."""
        row = await self._session.one(_TRY_LOCK, organization_id=self._organization_id)
        return bool(row["is_held"])
