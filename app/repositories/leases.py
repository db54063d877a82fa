"""Leases handed out, so that they can be revoked with the key."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from app.core.database import Session, Statement
from app.models.leases import credential_lease as t

_ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)
_INSERT = Statement(
    sa.insert(t).values({column.name: sa.bindparam(column.name, type_=column.type) for column in t.columns})
)
_UNEXPIRED = (
    t.c.organization_id == _ORGANIZATION,
    t.c.credential_id == sa.bindparam("credential_id", type_=t.c.credential_id.type),
    t.c.expires_at > sa.bindparam("now", type_=t.c.expires_at.type),
)
_OF_CREDENTIAL = Statement(sa.select(t.c.accessor).where(*_UNEXPIRED))
_OF_VERSION = Statement(
    sa.select(t.c.accessor).where(
        *_UNEXPIRED, t.c.key_version == sa.bindparam("key_version", type_=sa.Integer)
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRow:
    """One lease. The accessor can revoke the wrapping token, not open it."""

    id: UUID
    credential_id: UUID
    key_version: int
    accessor: str
    created_at: datetime
    created_by: str
    expires_at: datetime


class LeaseRepository:
    """One organization's leases."""

    def __init__(self, session: Session, organization_id: str) -> None:
        self._session = session
        self._organization_id = organization_id

    async def insert(self, lease: LeaseRow) -> None:
        await self._session.execute(
            _INSERT,
            organization_id=self._organization_id,
            id=lease.id,
            credential_id=lease.credential_id,
            key_version=lease.key_version,
            accessor=lease.accessor,
            created_at=lease.created_at,
            created_by=lease.created_by,
            expires_at=lease.expires_at,
        )

    async def unexpired(
        self, credential_id: UUID, key_version: int | None = None, *, now: datetime
    ) -> Sequence[str]:
        """Accessors of what may not have been opened yet; of one version, or of all."""
        values = {"organization_id": self._organization_id, "credential_id": credential_id, "now": now}
        if key_version is None:
            found = await self._session.rows(_OF_CREDENTIAL, **values)
        else:
            found = await self._session.rows(_OF_VERSION, key_version=key_version, **values)
        return [row["accessor"] for row in found]
