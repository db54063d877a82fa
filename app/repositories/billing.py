"""The timeline of usage modes, and readiness in one query."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa

from app.core.database import Row, Session, Statement
from app.domain.billing import (
    INITIAL_MODE,
    Blocker,
    Readiness,
    UsageMode,
    UsageModePoint,
    UsageModeState,
    blockers_of,
)
from app.domain.credentials import CredentialState
from app.domain.validation import ValidationStatus
from app.models.billing import usage_mode_change as t
from app.models.credentials import credential_version as v
from app.models.credentials import provider_credential as c
from app.repositories.counting import is_limit_reached

_ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)
# Switches of one organization come one after the other; the ledger takes the same lock shared.
_LOCK = Statement(
    sa.select(
        sa.func.pg_advisory_xact_lock(
            sa.func.hashtext(sa.literal_column("'byok.usage_mode'")), sa.func.hashtext(_ORGANIZATION)
        )
    )
)
_TRY_LOCK = Statement(
    sa.select(
        sa.func.pg_try_advisory_xact_lock(
            sa.func.hashtext(sa.literal_column("'byok.usage_mode'")), sa.func.hashtext(_ORGANIZATION)
        ).label("is_held")
    )
)
_CLOCK = Statement(sa.select(sa.func.clock_timestamp().label("now")))
# The clock is read once, after the snapshot is taken: a switch that can be seen has begun, and none is in both halves.
_now = sa.select(sa.func.clock_timestamp().label("now")).cte("clock")
_last_begun = (
    sa.select(sa.func.max(t.c.effective_from))
    .where(
        t.c.organization_id == _ORGANIZATION, t.c.effective_from <= sa.select(_now.c.now).scalar_subquery()
    )
    .scalar_subquery()
)
_STATE = Statement(
    sa.select(t, (t.c.effective_from > _now.c.now).label("is_to_come"))
    .select_from(t.join(_now, sa.true()))
    .where(
        t.c.organization_id == _ORGANIZATION,
        t.c.effective_from >= sa.func.coalesce(_last_begun, sa.literal_column("'-infinity'::timestamptz")),
    )
    .order_by(t.c.effective_from)
)
_IN_FORCE = (
    sa.select(t)
    .where(t.c.organization_id == _ORGANIZATION, t.c.effective_from <= sa.func.statement_timestamp())
    .order_by(t.c.effective_from.desc())
    .limit(sa.literal_column("1"))
)
_LAST = Statement(
    sa.select(sa.func.max(t.c.effective_from).label("last")).where(t.c.organization_id == _ORGANIZATION)
)
# The policy on the table allows no other deletion.
_CANCEL = Statement(
    sa.delete(t)
    .where(
        t.c.organization_id == _ORGANIZATION,
        t.c.is_scheduled,
        t.c.effective_from > sa.func.clock_timestamp(),
    )
    .returning(t)
)
_INSERT = Statement(
    sa.insert(t).values({column.name: sa.bindparam(column.name, type_=column.type) for column in t.columns})
)
_PAGE = Statement(
    sa.select(t)
    .where(
        t.c.organization_id == _ORGANIZATION,
        t.c.effective_from < sa.bindparam("before", type_=t.c.effective_from.type),
        t.c.effective_from <= sa.func.statement_timestamp(),
    )
    .order_by(t.c.effective_from.desc())
    .limit(sa.bindparam("at_most", type_=sa.Integer))
)
_point = _IN_FORCE.subquery("point")
# One row, also for an organization that never chose.
_organization = sa.select(_ORGANIZATION.label("organization_id")).subquery("organization")
_mode = sa.func.coalesce(_point.c.mode, sa.literal_column(f"'{INITIAL_MODE.mode}'"))
_in_use = sa.and_(
    v.c.organization_id == c.c.organization_id,
    v.c.credential_id == c.c.id,
    v.c.key_version == c.c.current_key_version,
)
_READINESS = Statement(
    sa.select(
        _mode.label("mode"),
        _point.c.credential_id,
        c.c.state,
        v.c.definite_status,
        is_limit_reached(_organization.c.organization_id, _mode).label("is_limit_reached"),
    ).select_from(
        _organization.outerjoin(_point, sa.true())
        .outerjoin(
            c, sa.and_(c.c.organization_id == _point.c.organization_id, c.c.id == _point.c.credential_id)
        )
        .outerjoin(v, _in_use)
    )
)
_LIMIT_REACHED = Statement(
    sa.select(is_limit_reached(_ORGANIZATION, sa.bindparam("mode", type_=sa.Text)).label("is_limit_reached"))
)
_CREDENTIAL = Statement(
    sa.select(c.c.state, v.c.definite_status)
    .select_from(c.outerjoin(v, _in_use))
    .where(c.c.organization_id == _ORGANIZATION, c.c.id == sa.bindparam("credential_id", type_=c.c.id.type))
)


class BillingRepository:
    """One organization's usage modes."""

    def __init__(self, session: Session, organization_id: str) -> None:
        self._session = session
        self._organization_id = organization_id

    async def lock(self) -> None:
        """Wait until no other switch of this organization is under way; held until the transaction ends."""
        await self._session.first(_LOCK, organization_id=self._organization_id)

    async def try_lock(self) -> bool:
        """As `lock`, but without waiting: whether no switch and no ingestion of this organization is under way."""
        found = await self._session.first(_TRY_LOCK, organization_id=self._organization_id)
        return found is not None and bool(found["is_held"])

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

    async def readiness(self) -> Readiness:
        """One query: the mode in force, its credential, the last definite verdict on its key, and the spend limits."""
        row = await self._session.first(_READINESS, organization_id=self._organization_id)
        assert row is not None
        mode = UsageMode(row["mode"])
        return Readiness(
            mode=mode,
            credential_id=row["credential_id"],
            blockers=_blockers(mode, row, is_limit_reached=row["is_limit_reached"]),
        )

    async def blockers(self, mode: UsageMode, credential_id: UUID | None) -> tuple[Blocker, ...]:
        """What would be in the way if this were in force right now."""
        reached = await self._session.first(_LIMIT_REACHED, organization_id=self._organization_id, mode=mode)
        assert reached is not None
        found = None
        if credential_id is not None:
            found = await self._session.first(
                _CREDENTIAL, organization_id=self._organization_id, credential_id=credential_id
            )
        return _blockers(mode, found, is_limit_reached=reached["is_limit_reached"])


def _blockers(mode: UsageMode, row: Row | None, *, is_limit_reached: bool) -> tuple[Blocker, ...]:
    state = None if row is None or row["state"] is None else CredentialState(row["state"])
    verdict = (
        None if row is None or row["definite_status"] is None else ValidationStatus(row["definite_status"])
    )
    return blockers_of(mode, state, verdict, is_limit_reached=is_limit_reached)


def point_of(row: Row) -> UsageModePoint:
    return UsageModePoint(
        mode=UsageMode(row["mode"]),
        credential_id=row["credential_id"],
        effective_from=row["effective_from"],
        changed_by=row["changed_by"],
    )
