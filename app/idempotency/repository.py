"""Claims on Idempotency-Keys, exact under concurrency: the primary key settles who is first."""

import json
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.database.engine import Query, Session
from app.idempotency.tables import idempotency_key as t


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptAnswer:
    """The first answer, as it went out."""

    status_code: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The state of a key after an attempt to claim it.

    `resource_id` was chosen by the first holder: a later one finds there what a crash left behind.
    """

    request_digest: bytes
    holder_id: UUID
    resource_id: UUID
    answer: KeptAnswer | None


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
# A holder that crashed frees the key; whoever takes it over keeps the resource id.
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
_OF_KEY = sa.and_(t.c.organization_id == _bind("organization_id"), t.c.key_digest == _bind("key_digest"))
_FIND = Query(sa.select(t).where(_OF_KEY))
_KEEP = Query(
    sa.update(t)
    .where(_OF_KEY, t.c.holder_id == sa.bindparam("holder", type_=t.c.holder_id.type))
    .values(status_code=_bind("status_code"), headers=_bind("headers"), body=_bind("body"))
)
_REBIND = Query(
    sa.update(t)
    .where(_OF_KEY, t.c.holder_id == sa.bindparam("holder", type_=t.c.holder_id.type))
    .values(resource_id=_bind("resource_id"))
)
_LET_GO = Query(
    sa.update(t)
    .where(
        _OF_KEY,
        t.c.holder_id == sa.bindparam("holder", type_=t.c.holder_id.type),
        t.c.status_code.is_(None),
    )
    .values(held_until=_bind("held_until"))
)
_RELEASE = Query(
    sa.delete(t).where(
        _OF_KEY,
        t.c.holder_id == sa.bindparam("holder", type_=t.c.holder_id.type),
        t.c.status_code.is_(None),
    )
)


class IdempotencyRepository:
    """One organization's kept answers."""

    def __init__(self, session: Session, organization_id: str) -> None:
        self._session = session
        self._organization_id = organization_id

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
    ) -> Claim:
        """Take the key if it is free, and return its state either way."""
        values = {"organization_id": self._organization_id, "key_digest": key_digest}
        row = None
        while row is None:  # the holder may release the key between the two statements
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
        answer = None
        if row["status_code"] is not None:
            answer = KeptAnswer(
                status_code=row["status_code"], headers=row["headers"], body=bytes(row["body"])
            )
        return Claim(
            request_digest=bytes(row["request_digest"]),
            holder_id=row["holder_id"],
            resource_id=row["resource_id"],
            answer=answer,
        )

    async def keep(self, key_digest: bytes, *, holder_id: UUID, answer: KeptAnswer) -> None:
        await self._session.execute(
            _KEEP,
            organization_id=self._organization_id,
            key_digest=key_digest,
            holder=holder_id,
            status_code=answer.status_code,
            headers=json.dumps(answer.headers),
            body=answer.body,
        )

    async def rebind(self, key_digest: bytes, *, holder_id: UUID, resource_id: UUID) -> None:
        """What the former holder began is gone; the new one makes another resource."""
        await self._session.execute(
            _REBIND,
            organization_id=self._organization_id,
            key_digest=key_digest,
            holder=holder_id,
            resource_id=resource_id,
        )

    async def let_go(self, key_digest: bytes, *, holder_id: UUID, now: datetime) -> None:
        """End the hold, and keep what it names."""
        await self._session.execute(
            _LET_GO,
            organization_id=self._organization_id,
            key_digest=key_digest,
            holder=holder_id,
            held_until=now,
        )

    async def release(self, key_digest: bytes, *, holder_id: UUID) -> None:
        """Give the key back unused."""
        await self._session.execute(
            _RELEASE, organization_id=self._organization_id, key_digest=key_digest, holder=holder_id
        )
