"""SQL of rotations. Each is read with its masked key version."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from app.core.clock import first_id_at
from app.credentials.records import Activate, DestroyPrevious
from app.credentials.rotations import RotationRecord, RotationState
from app.credentials.tables import credential_rotation as t
from app.credentials.tables import credential_version as v
from app.credentials.version_rows import version_columns, version_record
from app.database.repository import Repository
from app.database.statements import Query, Row

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


_replaced = v.alias("replaced")


def _joined(version: Any, number: sa.Column[Any]) -> sa.ColumnElement[bool]:
    return sa.and_(
        version.c.organization_id == t.c.organization_id,
        version.c.credential_id == t.c.credential_id,
        version.c.key_version == number,
    )


# A later activation sets a new `replaced_at`, for example after a rollback: then the version is not kept by this rotation.
_KEEPS_REPLACED = sa.and_(
    _replaced.c.state == sa.literal_column("'previous'"), _replaced.c.replaced_at == t.c.decided_at
)
_OWN_COLUMNS = (*t.c, sa.func.coalesce(_KEEPS_REPLACED, sa.false()).label("keeps_replaced"))
_READ = sa.select(*_OWN_COLUMNS, *version_columns(v, "version_")).select_from(
    t.join(v, _joined(v, t.c.key_version)).outerjoin(_replaced, _joined(_replaced, t.c.replaced_key_version))
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
# The id of a rotation sorts by the time when it was requested.
_COUNT_SINCE = Query(
    sa.select(sa.func.count().label("rotations")).select_from(
        sa.select(t.c.id)
        .where(t.c.organization_id == _ORGANIZATION, t.c.id >= sa.bindparam("first", type_=t.c.id.type))
        .limit(sa.bindparam("at_most", type_=sa.Integer))
        .subquery()
    )
)
_DECIDE = Query(
    sa.update(t)
    .where(_OF_VERSION, t.c.state == sa.literal_column("'pending'"))
    .values(
        state=sa.bindparam("new_state", type_=sa.Text),
        decided_at=sa.bindparam("new_decided_at", type_=t.c.decided_at.type),
        replaced_key_version=sa.bindparam("new_replaced_key_version", type_=sa.Integer),
    )
)
# Versions that a rotation asked to destroy at once, and that are kept because no result has proven the new key yet.
_TO_DESTROY = Query(
    sa.select(_replaced.c.intent_id)
    .select_from(t.join(_replaced, _joined(_replaced, t.c.replaced_key_version)))
    .where(
        t.c.organization_id == _ORGANIZATION,
        t.c.credential_id == _CREDENTIAL,
        t.c.destroy_previous == sa.literal_column(f"'{DestroyPrevious.IMMEDIATELY}'"),
        _KEEPS_REPLACED,
    )
    .order_by(_replaced.c.key_version)
)


class RotationRepository(Repository):
    """The rotations of one organization."""

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

    async def count_since(self, since: datetime, *, at_most: int) -> int:
        """How many rotations of the organization were requested since then, counted up to `at_most`."""
        row = await self._session.one(
            _COUNT_SINCE, organization_id=self._organization_id, first=first_id_at(since), at_most=at_most
        )
        rotations: int = row["rotations"]
        return rotations

    async def to_destroy(self, credential_id: UUID) -> Sequence[UUID]:
        """The intents of previous versions that must be destroyed as soon as a result proves the active key."""
        found = await self._session.rows(
            _TO_DESTROY, organization_id=self._organization_id, credential_id=credential_id
        )
        return [row["intent_id"] for row in found]

    async def decide(
        self,
        credential_id: UUID,
        key_version: int,
        state: RotationState,
        *,
        now: datetime,
        replaced_key_version: int | None = None,
    ) -> bool:
        """End a pending rotation. Returns False if it is not pending.

        `replaced_key_version` is the version that the activation made previous at `now`.
        """
        decided = await self._session.execute(
            _DECIDE,
            organization_id=self._organization_id,
            credential_id=credential_id,
            key_version=key_version,
            new_state=state,
            new_decided_at=now,
            new_replaced_key_version=replaced_key_version,
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
        replaced_key_version=row["replaced_key_version"],
        keeps_replaced=row["keeps_replaced"],
        version=version_record(tuple(row.values())[len(_OWN_COLUMNS) :]),
    )
