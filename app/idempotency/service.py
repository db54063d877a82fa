"""Idempotency-Key: a repeated request is executed once, and every repetition gets the first response."""

import hmac
import time
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from app.auth.principal import Caller
from app.core.clock import new_id, now
from app.core.errors import IdempotencyInProgress, IdempotencyKeyReused, RateLimited
from app.database.unit_of_work import UnitsOfWork
from app.idempotency.repository import IdempotencyRepository, StoredResponse

RETENTION = timedelta(hours=24)
CLAIM_TIMEOUT = timedelta(seconds=60)
# The keys of an organization are counted after a thousandth of their maximum was claimed.
_CLAIMS_PER_COUNT = 1_000
# How long an organization with too many keys is refused before its keys are counted again.
_FULL_SECONDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotentRequest:
    """The request to which an Idempotency-Key is bound, together with the caller."""

    method: str
    path: str
    body: bytes


class IdempotencyClaim:
    """The exclusive right of one request to execute, until its response is stored or the key is released.

    `resource_id` is the id for the resource that the request creates. `is_resumed`: an earlier request with the same
    key was interrupted and may have created the resource already.
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

    async def store(self, response: StoredResponse) -> None:
        """Store the response, which later requests with the same key get."""
        async with self._units.writing(self._organization_id) as uow:
            await uow[IdempotencyRepository].store(
                self._key_digest, holder_id=self._holder_id, response=response
            )
            await uow.commit()

    async def renew_resource_id(self) -> None:
        """Take a new resource id, because the earlier request left nothing under the old one."""
        self.resource_id, self.is_resumed = new_id(), False
        async with self._units.writing(self._organization_id) as uow:
            await uow[IdempotencyRepository].renew_resource_id(
                self._key_digest, holder_id=self._holder_id, resource_id=self.resource_id
            )
            await uow.commit()

    async def allow_retry(self) -> None:
        """Let the same request retry at once. Its resource id is kept, so the retry finds what it created."""
        async with self._units.writing(self._organization_id) as uow:
            await uow[IdempotencyRepository].allow_retry(
                self._key_digest, holder_id=self._holder_id, now=now()
            )
            await uow.commit()

    async def release(self) -> None:
        """Free the key for any request, because this one had no effect."""
        async with self._units.writing(self._organization_id) as uow:
            await uow[IdempotencyRepository].release(self._key_digest, holder_id=self._holder_id)
            await uow.commit()


class IdempotencyService:
    """Claims keys. Neither the key nor the body is stored.

    The digest of the body is an HMAC keyed with the Idempotency-Key, and only a digest of that key is stored. So a
    reader of the table cannot test guesses of a body.

    Args:
        units: opens transactions.
        max_keys: how many keys an organization may have at a time. Exceeded by at most 0.1 % for each process.
    """

    def __init__(self, units: UnitsOfWork, *, max_keys: int = 1_000_000) -> None:
        self._units = units
        self._max_keys = max_keys
        self._count_after = max(1, max_keys // _CLAIMS_PER_COUNT)
        self._uncounted: Counter[str] = Counter()
        self._full_until: dict[str, float] = {}

    async def _require_room(self, organization_id: str) -> None:
        """Count the organization's keys once in many claims, because counting a million takes a tenth of a second."""
        full_until = self._full_until.get(organization_id, 0.0)
        if time.monotonic() < full_until:
            raise RateLimited(retry_after_seconds=_FULL_SECONDS)
        self._uncounted[organization_id] += 1
        if self._uncounted[organization_id] < self._count_after:
            return
        async with self._units.reading(organization_id) as uow:
            keys = await uow[IdempotencyRepository].count(at_most=self._max_keys)
        self._full_until.pop(organization_id, None)
        if keys >= self._max_keys:
            self._full_until[organization_id] = time.monotonic() + _FULL_SECONDS
            raise RateLimited(retry_after_seconds=_FULL_SECONDS)
        self._uncounted.pop(organization_id, None)  # a concurrent claim may have counted too

    async def claim(
        self, caller: Caller, key: str, request: IdempotentRequest
    ) -> IdempotencyClaim | StoredResponse:
        """Claim the key, or return the response that is stored for it.

        Raises:
            IdempotencyKeyReused: the key was used for a different request.
            IdempotencyInProgress: the first request is still running.
            RateLimited: the organization has as many keys as it may have within 24 hours.
        """
        await self._require_room(caller.organization_id)
        secret = key.encode()
        key_digest = hmac.digest(secret, b"byok idempotency key", "sha256")
        request_digest = hmac.digest(secret, _canonical(caller, request), "sha256")
        holder_id, resource_id, instant = new_id(), new_id(), now()
        async with self._units.writing(caller.organization_id) as uow:
            state = await uow[IdempotencyRepository].claim(
                key_digest,
                request_digest=request_digest,
                holder_id=holder_id,
                resource_id=resource_id,
                now=instant,
                held_until=instant + CLAIM_TIMEOUT,
                expires_at=instant + RETENTION,
            )
            await uow.commit()
        if not hmac.compare_digest(state.request_digest, request_digest):
            raise IdempotencyKeyReused
        if state.response is not None:
            return state.response
        if state.holder_id != holder_id:
            raise IdempotencyInProgress
        return IdempotencyClaim(
            self._units,
            caller,
            key_digest,
            holder_id=holder_id,
            resource_id=state.resource_id,
            is_resumed=state.resource_id != resource_id,
        )


def _canonical(caller: Caller, request: IdempotentRequest) -> bytes:
    """The request as bytes. Length prefixes make the encoding unambiguous."""
    parts = (caller.subject.encode(), request.method.encode(), request.path.encode(), request.body)
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)
