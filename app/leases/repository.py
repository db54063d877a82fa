"""Stored leases, so that their tokens can be revoked when the key is destroyed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from app.credentials.tables import credential_version as v
from app.credentials.tables import provider_credential as c
from app.database.repository import Repository
from app.database.statements import Query
from app.leases.tables import credential_lease as t

_ORGANIZATION = sa.bindparam("organization_id", type_=sa.Text)
_VALUES = {column.name: sa.bindparam(column.name, type_=column.type) for column in t.columns}
# One statement, so that the row locks that concurrent leases of one key wait for are held for one round trip less.
_used_version = (
    sa.update(v)
    .where(
        v.c.organization_id == _ORGANIZATION,
        v.c.credential_id == _VALUES["credential_id"],
        v.c.key_version == _VALUES["key_version"],
        v.c.state == sa.literal_column("'active'"),
    )
    .values(
        last_used_at=sa.func.greatest(v.c.last_used_at, _VALUES["created_at"]),
        leased_until=sa.func.greatest(v.c.leased_until, _VALUES["expires_at"]),
    )
    .returning(v.c.organization_id, v.c.credential_id)
    .cte("used_version")
)
_active_credential = (
    sa.update(c)
    .where(
        c.c.organization_id == _used_version.c.organization_id,
        c.c.id == _used_version.c.credential_id,
        c.c.state == sa.literal_column("'active'"),
    )
    .values(last_used_at=sa.func.greatest(c.c.last_used_at, _VALUES["created_at"]))
    .returning(c.c.id)
    .cte("active_credential")
)
# In a CTE with RETURNING, because Citus writes the rows of another INSERT with COPY, which row-level security refuses.
_recorded = (
    sa.insert(t)
    .from_select(list(_VALUES), sa.select(*_VALUES.values()).select_from(_active_credential))
    .returning(t.c.id)
    .cte("recorded")
)
_RECORD = Query(sa.select(_recorded.c.id))
_UNEXPIRED = (
    t.c.organization_id == _ORGANIZATION,
    t.c.credential_id == sa.bindparam("credential_id", type_=t.c.credential_id.type),
    t.c.expires_at > sa.bindparam("now", type_=t.c.expires_at.type),
)
_CREDENTIAL_ACCESSORS = Query(sa.select(t.c.accessor).where(*_UNEXPIRED))
_VERSION_ACCESSORS = Query(
    sa.select(t.c.accessor).where(
        *_UNEXPIRED, t.c.key_version == sa.bindparam("key_version", type_=sa.Integer)
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRow:
    """A stored lease. The accessor can revoke the wrapping token, but not unwrap it."""

    id: UUID
    credential_id: UUID
    key_version: int
    accessor: str
    created_at: datetime
    created_by: str
    expires_at: datetime


class LeaseRepository(Repository):
    """One organization's leases."""

    async def record(self, lease: LeaseRow) -> bool:
        """Store a lease and mark its key as used. Returns False if that key is no longer active."""
        recorded = await self._session.first(
            _RECORD,
            organization_id=self._organization_id,
            id=lease.id,
            credential_id=lease.credential_id,
            key_version=lease.key_version,
            accessor=lease.accessor,
            created_at=lease.created_at,
            created_by=lease.created_by,
            expires_at=lease.expires_at,
        )
        return recorded is not None

    async def unexpired_accessors(
        self, credential_id: UUID, key_version: int | None = None, *, now: datetime
    ) -> Sequence[str]:
        """Accessors of tokens that may still be unwrapped, of one version or of all versions."""
        values = {"organization_id": self._organization_id, "credential_id": credential_id, "now": now}
        if key_version is None:
            found = await self._session.rows(_CREDENTIAL_ACCESSORS, **values)
        else:
            found = await self._session.rows(_VERSION_ACCESSORS, key_version=key_version, **values)
        return [row["accessor"] for row in found]
