"""Reads the readiness of an organization in one query."""

from uuid import UUID

import sqlalchemy as sa

from app.credentials.records import CredentialState
from app.credentials.tables import credential_version as v
from app.credentials.tables import provider_credential as c
from app.credentials.validation_results import Reason, ValidationStatus
from app.database.repository import Repository
from app.database.statements import Query, Row
from app.readiness.readiness import Blocker, BlockerDetail, Readiness, blockers_of
from app.spend_limits.counter_queries import full_limits, is_limit_reached
from app.usage_mode.modes import INITIAL_MODE, UsageMode
from app.usage_mode.repository import ACTIVE_MODE

_ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)
_active_mode_change = ACTIVE_MODE.subquery("point")
# One row, even for an organization that never switched its usage mode.
_organization = sa.select(_ORGANIZATION.label("organization_id")).subquery("organization")
_mode = sa.func.coalesce(_active_mode_change.c.mode, sa.literal_column(f"'{INITIAL_MODE.mode}'"))
_active_version = sa.and_(
    v.c.organization_id == c.c.organization_id,
    v.c.credential_id == c.c.id,
    v.c.key_version == c.c.current_key_version,
)
_READINESS = Query(
    sa.select(
        _mode.label("mode"),
        _active_mode_change.c.credential_id,
        c.c.state,
        v.c.definite_status,
        v.c.definite_reason,
        is_limit_reached(_organization.c.organization_id, _mode).label("is_limit_reached"),
    ).select_from(
        _organization.outerjoin(_active_mode_change, sa.true())
        .outerjoin(
            c,
            sa.and_(
                c.c.organization_id == _active_mode_change.c.organization_id,
                c.c.id == _active_mode_change.c.credential_id,
            ),
        )
        .outerjoin(v, _active_version)
    )
)
_LIMIT_REACHED = Query(
    sa.select(is_limit_reached(_ORGANIZATION, sa.bindparam("mode", type_=sa.Text)).label("is_limit_reached"))
)
_FULL_LIMITS = Query(full_limits(_ORGANIZATION, sa.bindparam("mode", type_=sa.Text)))
_CREDENTIAL = Query(
    sa.select(c.c.state, v.c.definite_status)
    .select_from(c.outerjoin(v, _active_version))
    .where(c.c.organization_id == _ORGANIZATION, c.c.id == sa.bindparam("credential_id", type_=c.c.id.type))
)


class ReadinessRepository(Repository):
    """The readiness of one organization."""

    async def readiness(self) -> Readiness:
        """The active usage mode, its credential and the blockers, from one snapshot."""
        row = await self._session.one(_READINESS, organization_id=self._organization_id)
        mode = UsageMode(row["mode"])
        full: tuple[BlockerDetail, ...] = ()
        if row["is_limit_reached"]:
            found = await self._session.rows(_FULL_LIMITS, organization_id=self._organization_id, mode=mode)
            full = tuple(_full_limit(limit) for limit in found)
        return Readiness(
            mode=mode,
            credential_id=row["credential_id"],
            blockers=_blockers(mode, row, is_limit_reached=row["is_limit_reached"]),
            reason=None if row["definite_reason"] is None else Reason(row["definite_reason"]),
            full_limits=full,
        )

    async def blockers(self, mode: UsageMode, credential_id: UUID | None) -> tuple[Blocker, ...]:
        """The blockers that there would be now if this mode and credential were active."""
        reached = await self._session.one(_LIMIT_REACHED, organization_id=self._organization_id, mode=mode)
        found = None
        if credential_id is not None:
            found = await self._session.first(
                _CREDENTIAL, organization_id=self._organization_id, credential_id=credential_id
            )
        return _blockers(mode, found, is_limit_reached=reached["is_limit_reached"])


def _full_limit(row: Row) -> BlockerDetail:
    return BlockerDetail(
        code=Blocker.SPEND_LIMIT_REACHED,
        limit_id=row["id"],
        limit_name=row["name"],
        period_ends_at=row["period_ends_at"],
    )


def _blockers(mode: UsageMode, row: Row | None, *, is_limit_reached: bool) -> tuple[Blocker, ...]:
    state = None if row is None or row["state"] is None else CredentialState(row["state"])
    validation_status = (
        None if row is None or row["definite_status"] is None else ValidationStatus(row["definite_status"])
    )
    return blockers_of(mode, state, validation_status, is_limit_reached=is_limit_reached)
