"""The timeline of usage modes, and readiness in one query."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa

from app.database.engine import Query, Row, Session
from app.usage_mode.modes import INITIAL_MODE, UsageMode, UsageModePoint, UsageModeState
from app.usage_mode.tables import usage_mode_change as t

_ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)
_CLOCK = Query(sa.select(sa.func.clock_timestamp().label("now")))
# The clock is read once, after the snapshot is taken: a switch that can be seen has begun, and none is in both halves.
_now = sa.select(sa.func.clock_timestamp().label("now")).cte("clock")
_last_begun = (
    sa.select(sa.func.max(t.c.effective_from))
    .where(
        t.c.organization_id == _ORGANIZATION, t.c.effective_from <= sa.select(_now.c.now).scalar_subquery()
    )
    .scalar_subquery()
)
_STATE = Query(
    sa.select(t, (t.c.effective_from > _now.c.now).label("is_to_come"))
    .select_from(t.join(_now, sa.true()))
    .where(
        t.c.organization_id == _ORGANIZATION,
        t.c.effective_from >= sa.func.coalesce(_last_begun, sa.literal_column("'-infinity'::timestamptz")),
    )
    .order_by(t.c.effective_from)
)
IN_FORCE = (
    sa.select(t)
    .where(t.c.organization_id == _ORGANIZATION, t.c.effective_from <= sa.func.statement_timestamp())
    .order_by(t.c.effective_from.desc())
    .limit(sa.literal_column("1"))
)
_LAST = Query(
    sa.select(sa.func.max(t.c.effective_from).label("last")).where(t.c.organization_id == _ORGANIZATION)
)
# The policy on the table allows no other deletion.
_CANCEL = Query(
    sa.delete(t)
    .where(
        t.c.organization_id == _ORGANIZATION,
        t.c.is_scheduled,
        t.c.effective_from > sa.func.clock_timestamp(),
    )
    .returning(t)
)
_INSERT = Query(
    sa.insert(t).values({column.name: sa.bindparam(column.name, type_=column.type) for column in t.columns})
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


class UsageModeRepository:
    """One organization's usage modes."""

    def __init__(self, session: Session, organization_id: str) -> None:
        self._session = session
        self._organization_id = organization_id

    async def clock(self) -> datetime:
        """The database's clock, which the timeline goes by."""
        row = await self._session.first(_CLOCK)
        assert row is not None
        now: datetime = row["now"]
        return now

    async def state(self) -> UsageModeState:
        """What is in force right now, by the database's clock, and what is to come."""
        found = await self._session.rows(_STATE, organization_id=self._organization_id)
        begun = [point_of(row) for row in found if not row["is_to_come"]]
        coming = [point_of(row) for row in found if row["is_to_come"] and row["is_scheduled"]]
        return UsageModeState(
            in_force=begun[-1] if begun else INITIAL_MODE, scheduled=coming[-1] if coming else None
        )

    async def cancel_scheduled(self) -> UsageModePoint | None:
        """Take away what is still to come, and return it. Call `lock` first."""
        found = await self._session.rows(_CANCEL, organization_id=self._organization_id)
        coming = sorted((point_of(row) for row in found), key=lambda point: point.microseconds)
        return coming[-1] if coming else None

    async def append(
        self, mode: UsageMode, credential_id: UUID | None, *, at: datetime | None = None, changed_by: str
    ) -> UsageModePoint:
        """A point from now on, or from an instant to come.

        Call `lock` and `cancel_scheduled` first: then its instant is later than every other's.
        """
        is_scheduled = at is not None
        if at is None:
            at = await self.clock()
            newest = await self._session.first(_LAST, organization_id=self._organization_id)
            assert newest is not None
            last: datetime | None = newest["last"]
            if last is not None and at <= last:
                at = last + timedelta(microseconds=1)  # the clock was set back
        await self._session.execute(
            _INSERT,
            organization_id=self._organization_id,
            effective_from=at,
            mode=mode,
            credential_id=credential_id,
            changed_by=changed_by,
            is_scheduled=is_scheduled,
        )
        return UsageModePoint(
            mode=mode, credential_id=credential_id, effective_from=at, changed_by=changed_by
        )

    async def page(self, *, at_most: int, before: datetime) -> Sequence[UsageModePoint]:
        """Those that have begun, newest first."""
        found = await self._session.rows(
            _PAGE, organization_id=self._organization_id, at_most=at_most, before=before
        )
        return [point_of(row) for row in found]


def point_of(row: Row) -> UsageModePoint:
    return UsageModePoint(
        mode=UsageMode(row["mode"]),
        credential_id=row["credential_id"],
        effective_from=row["effective_from"],
        changed_by=row["changed_by"],
    )
