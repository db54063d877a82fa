"""The timeline of usage modes, and readiness in one query."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import sqlalchemy as sa

from app.core.database import Row, Session, Statement
from app.domain.billing import INITIAL_MODE, Readiness, UsageMode, UsageModePoint, blockers_of
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
_IN_FORCE = (
    sa.select(t)
    .where(t.c.organization_id == _ORGANIZATION, t.c.effective_from <= sa.func.statement_timestamp())
    .order_by(t.c.effective_from.desc())
    .limit(sa.literal_column("1"))
)
_FIND = Statement(_IN_FORCE)
_LAST = Statement(
    sa.select(sa.func.max(t.c.effective_from).label("last")).where(t.c.organization_id == _ORGANIZATION)
)
_INSERT = Statement(
    sa.insert(t).values({column.name: sa.bindparam(column.name, type_=column.type) for column in t.columns})
)
_PAGE = Statement(
    sa.select(t)
    .where(
        t.c.organization_id == _ORGANIZATION,
        t.c.effective_from < sa.bindparam("before", type_=t.c.effective_from.type),
    )
    .order_by(t.c.effective_from.desc())
    .limit(sa.bindparam("at_most", type_=sa.Integer))
)
_point = _IN_FORCE.subquery("point")
# One row, also for an organization that never chose.
_organization = sa.select(_ORGANIZATION.label("organization_id")).subquery("organization")
_mode = sa.func.coalesce(_point.c.mode, sa.literal_column(f"'{INITIAL_MODE.mode}'"))
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
        .outerjoin(
            v,
            sa.and_(
                v.c.organization_id == c.c.organization_id,
                v.c.credential_id == c.c.id,
                v.c.key_version == c.c.current_key_version,
            ),
        )
    )
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

    async def in_force(self) -> UsageModePoint:
        """The mode right now, by the database's clock."""
        row = await self._session.first(_FIND, organization_id=self._organization_id)
        return INITIAL_MODE if row is None else _point_of(row)

    async def append(self, mode: UsageMode, credential_id: UUID | None, *, changed_by: str) -> UsageModePoint:
        """A point from now on. Call `lock` first: then its instant is later than every other's."""
        clock = await self._session.first(_CLOCK)
        newest = await self._session.first(_LAST, organization_id=self._organization_id)
        assert clock is not None
        assert newest is not None
        now: datetime = clock["now"]
        last: datetime | None = newest["last"]
        if last is not None and now <= last:
            now = last + timedelta(microseconds=1)  # the clock was set back
        point = UsageModePoint(
            mode=mode, credential_id=credential_id, effective_from=now, changed_by=changed_by
        )
        await self._session.execute(
            _INSERT,
            organization_id=self._organization_id,
            effective_from=now,
            mode=mode,
            credential_id=credential_id,
            changed_by=changed_by,
        )
        return point

    async def page(self, *, at_most: int, before: datetime) -> Sequence[UsageModePoint]:
        """Newest first."""
        found = await self._session.rows(
            _PAGE, organization_id=self._organization_id, at_most=at_most, before=before
        )
        return [_point_of(row) for row in found]

    async def readiness(self) -> Readiness:
        """One query: the mode in force, its credential, the last definite verdict on its key, and the spend limits."""
        row = await self._session.first(_READINESS, organization_id=self._organization_id)
        assert row is not None
        mode = UsageMode(row["mode"])
        state = None if row["state"] is None else CredentialState(row["state"])
        verdict = None if row["definite_status"] is None else ValidationStatus(row["definite_status"])
        blockers = blockers_of(mode, state, verdict, is_limit_reached=row["is_limit_reached"])
        return Readiness(mode=mode, credential_id=row["credential_id"], blockers=blockers)


def _point_of(row: Row) -> UsageModePoint:
    return UsageModePoint(
        mode=UsageMode(row["mode"]),
        credential_id=row["credential_id"],
        effective_from=row["effective_from"],
        changed_by=row["changed_by"],
    )
