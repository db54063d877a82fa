"""Idempotency-Key: the same request twice is done once and answered twice."""

import hmac
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from app.auth.principal import Caller
from app.core.clock import new_id, now
from app.core.errors import IdempotencyInProgress, IdempotencyKeyReused
from app.database.unit_of_work import UnitsOfWork
from app.idempotency.repository import IdempotencyRepository, KeptAnswer

KEPT_FOR = timedelta(hours=24)
HELD_FOR = timedelta(seconds=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotentRequest:
    """What an Idempotency-Key is bound to, besides the caller."""

    method: str
    path: str
    body: bytes


class Hold:
    """The right to be the one who does it, until the answer is kept or the key released.

    `resource_id` is for what will be created. `is_resumed`: a former holder vanished and may
    have created it already.
    """

    def __init__(
        self,
        units: UnitsOfWork,
        caller: Caller,
        key_digest: bytes,
        *,
        holder_id: UUID,
        resource_id: UUID,
        is_resumed: bool,
    ) -> None:
        self._units = units
        self._organization_id = caller.organization_id
        self._key_digest = key_digest
        self._holder_id = holder_id
        self.resource_id = resource_id
        self.is_resumed = is_resumed

    async def keep(self, answer: KeptAnswer) -> None:
        async with self._units.writing(self._organization_id) as uow:
            await uow[IdempotencyRepository].keep(self._key_digest, holder_id=self._holder_id, answer=answer)
            await uow.commit()

    async def rebind(self) -> None:
        """Nothing came of the former holder's resource: take a new id."""
        self.resource_id, self.is_resumed = new_id(), False
        async with self._units.writing(self._organization_id) as uow:
            await uow[IdempotencyRepository].rebind(
                self._key_digest, holder_id=self._holder_id, resource_id=self.resource_id
            )
            await uow.commit()

    async def let_go(self) -> None:
        """Open to the same request again, at once. What it made, or began to make, is still named."""
        async with self._units.writing(self._organization_id) as uow:
            await uow[IdempotencyRepository].let_go(self._key_digest, holder_id=self._holder_id, now=now())
            await uow.commit()

    async def release(self) -> None:
        """Nothing came of it: open to any request."""
        async with self._units.writing(self._organization_id) as uow:
            await uow[IdempotencyRepository].release(self._key_digest, holder_id=self._holder_id)
            await uow.commit()


class IdempotencyService:
    """Claims keys. Neither the key nor the body is stored.

    The body's digest is an HMAC under the Idempotency-Key itself, of which only a digest is kept:
    whoever reads the table has nothing to test guesses of a body against.
    """

    def __init__(self, units: UnitsOfWork) -> None:
        self._units = units

    async def claim(self, caller: Caller, key: str, request: IdempotentRequest) -> Hold | KeptAnswer:
        """Take the key, or return the answer that was given under it.

        Raises:
            IdempotencyKeyReused: the key was used for another request.
            IdempotencyInProgress: the first request still runs.
        """
        secret = key.encode()
        key_digest = hmac.digest(secret, b"byok idempotency key", "sha256")
        request_digest = hmac.digest(secret, _canonical(caller, request), "sha256")
        holder_id, resource_id, instant = new_id(), new_id(), now()
        async with self._units.writing(caller.organization_id) as uow:
            claim = await uow[IdempotencyRepository].claim(
                key_digest,
                request_digest=request_digest,
                holder_id=holder_id,
                resource_id=resource_id,
                now=instant,
                held_until=instant + HELD_FOR,
                expires_at=instant + KEPT_FOR,
            )
            await uow.commit()
        if not hmac.compare_digest(claim.request_digest, request_digest):
            raise IdempotencyKeyReused
        if claim.answer is not None:
            return claim.answer
        if claim.holder_id != holder_id:
            raise IdempotencyInProgress
        return Hold(
            self._units,
            caller,
            key_digest,
            holder_id=holder_id,
            resource_id=claim.resource_id,
            is_resumed=claim.resource_id != resource_id,
        )


def _canonical(caller: Caller, request: IdempotentRequest) -> bytes:
    """Length-prefixed, so that no two requests have the same form."""
    parts = (caller.subject.encode(), request.method.encode(), request.path.encode(), request.body)
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)
