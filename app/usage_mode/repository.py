"""The usage mode history of an organization, in SQL."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa

from app.database.repository import Repository
from app.database.statements import Query, Row
from app.usage_mode.modes import INITIAL_MODE, ModeChange, UsageMode, UsageModeState
from app.usage_mode.tables import usage_mode_change as t

_ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)
_CLOCK = Query(sa.select(sa.func.clock_timestamp().label("now")))
# One reading of the clock, after the statement took its snapshot: no change counts both as active and as scheduled.
_now = sa.select(sa.func.clock_timestamp().label("now")).cte("clock")
_last_effective = (
    sa.select(sa.func.max(t.c.effective_from))
    .where(
        t.c.organization_id == _ORGANIZATION, t.c.effective_from <= sa.select(_now.c.now).scalar_subquery()
    )
    .scalar_subquery()
)
_STATE = Query(
    sa.select(t, (t.c.effective_from > _now.c.now).label("is_in_future"))
    .select_from(t.join(_now, sa.true()))
    .where(
        t.c.organization_id == _ORGANIZATION,
        t.c.effective_from
        >= sa.func.coalesce(_last_effective, sa.literal_column("'-infinity'::timestamptz")),
    )
    .order_by(t.c.effective_from)
)
# The change that is active now; no row for an organization that never switched.
ACTIVE_MODE = (
    sa.select(t)
    .where(t.c.organization_id == _ORGANIZATION, t.c.effective_from <= sa.func.statement_timestamp())
    .order_by(t.c.effective_from.desc())
    .limit(sa.literal_column("1"))
)
_LAST = Query(
    sa.select(sa.func.max(t.c.effective_from).label("last")).where(t.c.organization_id == _ORGANIZATION)
)
# The row-level security policy of the table rejects every other deletion. Citus accepts no volatile function in either: the
# organization's ledger lock is held before the statement begins, so no event can be counted by a change that becomes active
# meanwhile.
_CANCEL = Query(
    sa.delete(t)
    .where(
        t.c.organization_id == _ORGANIZATION,
        t.c.is_scheduled,
        t.c.effective_from > sa.func.statement_timestamp(),
    )
    .returning(t)
)
_COUNT_SINCE = Query(
    sa.select(sa.func.count().label("changes")).select_from(
        sa.select(t.c.effective_from)
        .where(
            t.c.organization_id == _ORGANIZATION,
            t.c.effective_from > sa.bindparam("since", type_=t.c.effective_from.type),
        )
        .limit(sa.bindparam("at_most", type_=sa.Integer))
        .subquery()
    )
)
_INSERT = Query(
    sa.insert(t)
    .values(
        {
            column.name: sa.bindparam(column.name, type_=column.type)
            for column in t.columns
            if column is not t.c.changed_at
        }
    )
    .returning(t)
)
_FIND = Query(
    sa.select(t).where(
        t.c.organization_id == _ORGANIZATION,
        t.c.effective_from == sa.bindparam("effective_from", type_=t.c.effective_from.type),
    )
)
_PAGE = Query(
    sa.select(t)
    .where(
        t.c.organization_id == _ORGANIZATION,
        t.c.effective_from < sa.bindparam("before", type_=t.c.effective_from.type),
        t.c.effective_from <= sa.func.statement_timestamp(),
    )
    .order_by(t.c.effective_from.desc())
    .limit(sa.bindparam("at_most", type_=sa.Integer))
)


class UsageModeRepository(Repository):
    """The usage mode history of one organization."""

    async def clock(self) -> datetime:
        """The time by the database's clock, which decides when a change takes effect."""
        row = await self._session.one(_CLOCK)
        now: datetime = row["now"]
        return now

    async def state(self) -> UsageModeState:
        """The active mode, by the database's clock, and the scheduled change."""
        found = await self._session.rows(_STATE, organization_id=self._organization_id)
        effective = [mode_change_of(row) for row in found if not row["is_in_future"]]
        scheduled = [mode_change_of(row) for row in found if row["is_in_future"] and row["is_scheduled"]]
        return UsageModeState(
            active=effective[-1] if effective else INITIAL_MODE,
            scheduled=scheduled[-1] if scheduled else None,
        )

    async def cancel_scheduled(self) -> ModeChange | None:
        """Delete the change that has not taken effect yet, and return it. Call `LedgerLock.lock_exclusively` first."""
        found = await self._session.rows(_CANCEL, organization_id=self._organization_id)
        scheduled = sorted((mode_change_of(row) for row in found), key=lambda change: change.microseconds)
        return scheduled[-1] if scheduled else None

    async def append(
        self, mode: UsageMode, credential_id: UUID | None, *, at: datetime | None = None, changed_by: str
    ) -> ModeChange:
        """Add a change that takes effect at `at`, or now if `at` is `None`.

        Call `LedgerLock.lock_exclusively` and `cancel_scheduled` first, so that it is the latest change.
        """
        is_scheduled = at is not None
        if at is None:
            at = await self.clock()
            newest = await self._session.one(_LAST, organization_id=self._organization_id)
            last: datetime | None = newest["last"]
            if last is not None and at <= last:
                at = last + timedelta(microseconds=1)  # the database's clock was set back
        row = await self._session.one(
            _INSERT,
            organization_id=self._organization_id,
            effective_from=at,
            mode=mode,
            credential_id=credential_id,
            changed_by=changed_by,
            is_scheduled=is_scheduled,
        )
        return mode_change_of(row)

    async def find(self, effective_from: datetime) -> ModeChange | None:
        """The change that takes effect at this time, or None."""
        row = await self._session.first(
            _FIND, organization_id=self._organization_id, effective_from=effective_from
        )
        return None if row is None else mode_change_of(row)

    async def count_since(self, since: datetime, *, at_most: int) -> int:
        """How many changes have taken effect since then or will, counted up to `at_most`."""
        row = await self._session.one(
            _COUNT_SINCE, organization_id=self._organization_id, since=since, at_most=at_most
        )
        changes: int = row["changes"]
        return changes

    async def page(self, *, at_most: int, before: datetime) -> Sequence[ModeChange]:
        """Changes that have taken effect, newest first."""
        found = await self._session.rows(
            _PAGE, organization_id=self._organization_id, at_most=at_most, before=before
        )
        return [mode_change_of(row) for row in found]


def mode_change_of(row: Row) -> ModeChange:
    return ModeChange(
        mode=UsageMode(row["mode"]),
        credential_id=row["credential_id"],
        effective_from=row["effective_from"],
        changed_by=row["changed_by"],
        changed_at=row["changed_at"],
    )
