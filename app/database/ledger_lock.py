"""The organization's ledger lock: shared by what counts spend, exclusive for what changes the rules."""

import sqlalchemy as sa

from app.database.engine import Opening, Query, Session

# As LOCK_SHARED, in the round trip that begins the transaction. A statement after it sees whatever the lock waited for;
# within one statement it would be seen as it was before.
STAND_STILL = Opening(
    sa.text(
        "SELECT pg_advisory_xact_lock_shared("
        "hashtext('byok.usage_mode'), hashtext(current_setting('byok.org')))"
    )
)


# The lock that a switch of the usage mode and a change of limits take exclusively. Columns are worked out
# from left to right, so the clock is read when the lock is held.
LOCK_SHARED = Query(
    sa.text(
        "SELECT pg_advisory_xact_lock_shared(hashtext('byok.usage_mode'), hashtext(CAST(:organization_id AS text))),"
        " clock_timestamp() AS now"
    )
)

_ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)
# Switches of one organization come one after the other; the ledger takes the same lock shared.
_LOCK = Query(
    sa.select(
        sa.func.pg_advisory_xact_lock(
            sa.func.hashtext(sa.literal_column("'byok.usage_mode'")), sa.func.hashtext(_ORGANIZATION)
        )
    )
)
_TRY_LOCK = Query(
    sa.select(
        sa.func.pg_try_advisory_xact_lock(
            sa.func.hashtext(sa.literal_column("'byok.usage_mode'")), sa.func.hashtext(_ORGANIZATION)
        ).label("is_held")
    )
)


class LedgerLock:
    """One organization's: held until the transaction ends."""

    def __init__(self, session: Session, organization_id: str) -> None:
        self._session = session
        self._organization_id = organization_id

    async def exclusive(self) -> None:
        """Wait until nobody else changes rules or counts spend."""
        await self._session.first(_LOCK, organization_id=self._organization_id)

    async def try_exclusive(self) -> bool:
        """As `exclusive`, but without waiting: whether it is held now."""
        found = await self._session.first(_TRY_LOCK, organization_id=self._organization_id)
        return found is not None and bool(found["is_held"])
