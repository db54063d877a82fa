"""Claims on Idempotency-Keys. Exact under concurrency: the primary key decides which request is first."""

import json
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.database.repository import Repository
from app.database.statements import Query
from app.idempotency.tables import idempotency_key as t


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredResponse:
    """The first response, as it was sent."""

    status_code: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyState:
    """The state of a key after an attempt to claim it.

    `resource_id` was chosen by the first request. A later one finds the resource that a crashed request left under it.
    """

    request_digest: bytes
    holder_id: UUID
    resource_id: UUID
    response: StoredResponse | None


def _bind(name: str) -> sa.BindParameter[object]:
    return sa.bindparam(name, type_=t.c[name].type)


_NEW = insert(t).values(
    organization_id=_bind("organization_id"),
    key_digest=_bind("key_digest"),
    request_digest=_bind("request_digest"),
    holder_id=_bind("holder_id"),
    held_until=_bind("held_until"),
    resource_id=_bind("resource_id"),
    expires_at=_bind("expires_at"),
)
_NOW = sa.bindparam("now", type_=t.c.held_until.type)
_EXPIRED = t.c.expires_at <= _NOW
# The claim of a crashed request times out. The request that claims the key after that keeps the resource id.
_ABANDONED = sa.and_(
    t.c.status_code.is_(None), t.c.held_until <= _NOW, t.c.request_digest == _NEW.excluded.request_digest
)
_CLAIM = Query(
    _NEW.on_conflict_do_update(
        index_elements=[t.c.organization_id, t.c.key_digest],
        set_={
            "request_digest": _NEW.excluded.request_digest,
            "holder_id": _NEW.excluded.holder_id,
            "held_until": _NEW.excluded.held_until,
            "resource_id": sa.case((_EXPIRED, _NEW.excluded.resource_id), else_=t.c.resource_id),
            "expires_at": sa.case((_EXPIRED, _NEW.excluded.expires_at), else_=t.c.expires_at),
            "status_code": sa.null(),
            "headers": sa.null(),
            "body": sa.null(),
        },
        where=sa.or_(_EXPIRED, _ABANDONED),
    )
)
_IS_KEY = sa.and_(t.c.organization_id == _bind("organization_id"), t.c.key_digest == _bind("key_digest"))
_IS_CLAIM = sa.and_(_IS_KEY, t.c.holder_id == sa.bindparam("holder", type_=t.c.holder_id.type))
_HAS_NO_RESPONSE = t.c.status_code.is_(None)
_FIND = Query(sa.select(t).where(_IS_KEY))
_STORE = Query(
    sa.update(t)
    .where(_IS_CLAIM)
    .values(status_code=_bind("status_code"), headers=_bind("headers"), body=_bind("body"))
)
_RENEW_RESOURCE_ID = Query(sa.update(t).where(_IS_CLAIM).values(resource_id=_bind("resource_id")))
_ALLOW_RETRY = Query(sa.update(t).where(_IS_CLAIM, _HAS_NO_RESPONSE).values(held_until=_bind("held_until")))
_RELEASE = Query(sa.delete(t).where(_IS_CLAIM, _HAS_NO_RESPONSE))


_AT_MOST = sa.bindparam("at_most", type_=sa.Integer)
_COUNT = Query(
    sa.select(sa.func.count().label("n")).select_from(
        sa.select(sa.literal_column("1"))
        .select_from(t)
        .where(t.c.organization_id == _bind("organization_id"))
        .limit(_AT_MOST)
        .subquery()
    )
)


class IdempotencyRepository(Repository):
    """The idempotency keys of one organization."""

    async def count(self, *, at_most: int) -> int:
        """Count the organization's keys, up to `at_most`."""
        row = await self._session.one(_COUNT, organization_id=self._organization_id, at_most=at_most)
        count: int = row["n"]
        return count

    async def claim(
        self,
        key_digest: bytes,
        *,
        request_digest: bytes,
        holder_id: UUID,
        resource_id: UUID,
        now: datetime,
        held_until: datetime,
        expires_at: datetime,
    ) -> KeyState:
        """Claim the key if it is free, and return its state in either case."""
        values = {"organization_id": self._organization_id, "key_digest": key_digest}
        row = None
        while row is None:  # the claiming request may release the key between the two statements
            await self._session.execute(
                _CLAIM,
                request_digest=request_digest,
                holder_id=holder_id,
                resource_id=resource_id,
                now=now,
                held_until=held_until,
                expires_at=expires_at,
                **values,
            )
            row = await self._session.first(_FIND, **values)
        response = None
        if row["status_code"] is not None:
            response = StoredResponse(
                status_code=row["status_code"], headers=row["headers"], body=bytes(row["body"])
            )
        return KeyState(
            request_digest=bytes(row["request_digest"]),
            holder_id=row["holder_id"],
            resource_id=row["resource_id"],
            response=response,
        )

    async def store(self, key_digest: bytes, *, holder_id: UUID, response: StoredResponse) -> None:
        await self._session.execute(
            _STORE,
            organization_id=self._organization_id,
            key_digest=key_digest,
            holder=holder_id,
            status_code=response.status_code,
            headers=json.dumps(response.headers),
            body=response.body,
        )

    async def renew_resource_id(self, key_digest: bytes, *, holder_id: UUID, resource_id: UUID) -> None:
        """Replace the resource id, because nothing is left under the old one."""
        await self._session.execute(
            _RENEW_RESOURCE_ID,
            organization_id=self._organization_id,
            key_digest=key_digest,
            holder=holder_id,
            resource_id=resource_id,
        )

    async def allow_retry(self, key_digest: bytes, *, holder_id: UUID, now: datetime) -> None:
        """End the claim now, but keep the request digest and the resource id."""
        await self._session.execute(
            _ALLOW_RETRY,
            organization_id=self._organization_id,
            key_digest=key_digest,
            holder=holder_id,
            held_until=now,
        )

    async def release(self, key_digest: bytes, *, holder_id: UUID) -> None:
        """Delete the claim, so that any request may use the key."""
        await self._session.execute(
            _RELEASE, organization_id=self._organization_id, key_digest=key_digest, holder=holder_id
        )
