"""Readiness in one query: the mode, its credential, the last verdict on its key, and the spend limits."""

from uuid import UUID

import sqlalchemy as sa

from app.credentials.records import CredentialState
from app.credentials.tables import credential_version as v
from app.credentials.tables import provider_credential as c
from app.credentials.verdicts import ValidationStatus
from app.database.engine import Query, Row, Session
from app.readiness.readiness import Blocker, Readiness, blockers_of
from app.spend_limits.counter_queries import is_limit_reached
from app.usage_mode.modes import INITIAL_MODE, UsageMode
from app.usage_mode.repository import IN_FORCE

_ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)
_point = IN_FORCE.subquery("point")
# One row, also for an organization that never chose.
_organization = sa.select(_ORGANIZATION.label("organization_id")).subquery("organization")
_mode = sa.func.coalesce(_point.c.mode, sa.literal_column(f"'{INITIAL_MODE.mode}'"))
_in_use = sa.and_(
    v.c.organization_id == c.c.organization_id,
    v.c.credential_id == c.c.id,
    v.c.key_version == c.c.current_key_version,
)
_READINESS = Query(
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
_LIMIT_REACHED = Query(
    sa.select(is_limit_reached(_ORGANIZATION, sa.bindparam("mode", type_=sa.Text)).label("is_limit_reached"))
)
_CREDENTIAL = Query(
    sa.select(c.c.state, v.c.definite_status)
    .select_from(c.outerjoin(v, _in_use))
    .where(c.c.organization_id == _ORGANIZATION, c.c.id == sa.bindparam("credential_id", type_=c.c.id.type))
)


class ReadinessRepository:
    """One organization's."""

    def __init__(self, session: Session, organization_id: str) -> None:
        self._session = session
        self._organization_id = organization_id

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
