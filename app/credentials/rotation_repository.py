"""Rotations, each with the masked version that it brings."""

from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from app.credentials.rotations import Activate, DestroyPrevious, RotationRecord, RotationState
from app.credentials.tables import credential_rotation as t
from app.credentials.tables import credential_version as v
from app.credentials.version_rows import version_columns, version_record
from app.database.engine import Query, Row, Session

_ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)
_CREDENTIAL = sa.bindparam("credential_id", type_=t.c.credential_id.type)
_INSERTED = (
    "organization_id",
    "id",
    "credential_id",
    "key_version",
    "state",
    "activate",
    "destroy_previous",
    "created_at",
    "created_by",
)
_INSERT = Query(sa.insert(t).values({name: sa.bindparam(name, type_=t.c[name].type) for name in _INSERTED}))


_OWN = tuple(t.c)
_READ = sa.select(*_OWN, *version_columns(v, "version_")).select_from(
    t.join(
        v,
        sa.and_(
            v.c.organization_id == t.c.organization_id,
            v.c.credential_id == t.c.credential_id,
            v.c.key_version == t.c.key_version,
        ),
    )
)
_FIND = Query(
    _READ.where(t.c.organization_id == _ORGANIZATION, t.c.id == sa.bindparam("id", type_=t.c.id.type))
)
_OF_VERSION = sa.and_(
    t.c.organization_id == _ORGANIZATION,
    t.c.credential_id == _CREDENTIAL,
    t.c.key_version == sa.bindparam("key_version", type_=sa.Integer),
)
_FIND_PENDING = Query(_READ.where(_OF_VERSION, t.c.state == sa.literal_column("'pending'")))
_DECIDE = Query(
    sa.update(t)
    .where(_OF_VERSION, t.c.state == sa.literal_column("'pending'"))
    .values(
        state=sa.bindparam("new_state", type_=sa.Text),
        decided_at=sa.bindparam("new_decided_at", type_=t.c.decided_at.type),
    )
)


class RotationRepository:
    """One organization's rotations."""

    def __init__(self, session: Session, organization_id: str) -> None:
        self._session = session
        self._organization_id = organization_id

    async def insert(
        self,
        rotation_id: UUID,
        credential_id: UUID,
        key_version: int,
        *,
        activate: Activate,
        destroy_previous: DestroyPrevious,
        created_at: datetime,
        created_by: str,
    ) -> None:
        await self._session.execute(
            _INSERT,
            organization_id=self._organization_id,
            id=rotation_id,
            credential_id=credential_id,
            key_version=key_version,
            state=RotationState.PENDING,
            activate=activate,
            destroy_previous=destroy_previous,
            created_at=created_at,
            created_by=created_by,
        )

    async def find(self, rotation_id: UUID) -> RotationRecord | None:
        row = await self._session.first(_FIND, organization_id=self._organization_id, id=rotation_id)
        return None if row is None else _rotation(row)

    async def find_pending(self, credential_id: UUID, key_version: int) -> RotationRecord | None:
        row = await self._session.first(
            _FIND_PENDING,
            organization_id=self._organization_id,
            credential_id=credential_id,
            key_version=key_version,
        )
        return None if row is None else _rotation(row)

    async def decide(
        self, credential_id: UUID, key_version: int, state: RotationState, *, now: datetime
    ) -> bool:
        """End a pending rotation, for good; False where it had ended."""
        decided = await self._session.execute(
            _DECIDE,
            organization_id=self._organization_id,
            credential_id=credential_id,
            key_version=key_version,
            new_state=state,
            new_decided_at=now,
        )
        return bool(decided)


def _rotation(row: Row) -> RotationRecord:
    return RotationRecord(
        id=row["id"],
        organization_id=row["organization_id"],
        credential_id=row["credential_id"],
        key_version=row["key_version"],
        state=RotationState(row["state"]),
        activate=Activate(row["activate"]),
        destroy_previous=DestroyPrevious(row["destroy_previous"]),
        created_at=row["created_at"],
        created_by=row["created_by"],
        decided_at=row["decided_at"],
        version=version_record(tuple(row.values())[len(_OWN) :]),
    )
