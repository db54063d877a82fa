"""Rewrap all secrets in Vault under the newest transit keys, one version at a time, while the service runs.

The queue holds what is left to do, so a run that was stopped goes on; one runs at a time.
"""

from collections.abc import AsyncIterator
from enum import Enum, auto
from typing import Protocol
from uuid import UUID

from app.audit import service as audit
from app.audit.events import AuditAction
from app.core.clock import new_id, now
from app.credentials.rotations import has_room
from app.credentials.service import INTENT_DEADLINE
from app.database.unit_of_work import UnitsOfWork
from app.jobs.queue import DueItem, JobKind, QueueRepository
from app.secret_maintenance.inventory import lock, lock_standing, record, with_kind
from app.secret_maintenance.inventory_repository import SecretInventoryRepository, StoredSecret
from app.secret_maintenance.progress import PAGE, Count, OperationRefused, Progress, operator
from app.secret_maintenance.records import Rewrap, RewrapState
from app.secret_maintenance.repository import RewrapRepository
from app.secret_maintenance.rewrap_steps import RewrapSteps, settling_of
from app.secret_store.port import CasMismatch, SecretCorrupt, SecretMissing, SecretRef, SecretStore

# What others are changing is left for the next pass.
_MOST_PASSES = 5


class RewrappingStore(SecretStore, Protocol):
    """A store whose sealing keys have versions: Vault, and what tests put in front of it."""

    async def is_outdated(self, ref: SecretRef, store_version: int) -> bool: ...

    async def rewrap(
        self, ref: SecretRef, store_version: int, *, intent_id: UUID, expected_version: int
    ) -> int: ...

    async def rotate_key(self, organization_id: str) -> None: ...


class _Outcome(Enum):
    DONE = auto()
    BUSY = auto()
    FULL = auto()
    UNOPENABLE = auto()


class RewrapCommand:
    """One command."""

    def __init__(self, units: UnitsOfWork, store: RewrappingStore, progress: Progress) -> None:
        self._units = units
        self._store = store
        self._rewraps = RewrapSteps(units, store)
        self._progress = progress

    async def run(self, *, rotate_keys: bool) -> None:
        """All of it, or what a run that was stopped has left.

        Raises:
            OperationRefused, SecretStoreUnavailable, DatabaseUnavailable
        """
        await self._fill(rotate_keys=rotate_keys)
        await self._rotate_keys()
        stuck: dict[_Outcome, list[str]] = {}
        for _ in range(_MOST_PASSES):
            stuck = await self._pass()
            if not stuck.get(_Outcome.BUSY):
                break
        self._refuse(stuck)

    async def _fill(self, *, rotate_keys: bool) -> None:
        """What there is to do, in one transaction: a run that was stopped is gone on with instead."""
        async with self._units.across(QueueRepository) as (queue, session):
            kinds = (JobKind.ROTATE_TRANSIT_KEY, JobKind.REWRAP_SECRETS)
            if any([await queue.count(kind) for kind in kinds]):
                self._progress("going on with a run that was stopped")
                return
            for kind in kinds if rotate_keys else kinds[1:]:
                await queue.fill(kind)
            await session.commit()

    async def _rotate_keys(self) -> None:
        count = Count(self._progress, "transit keys rotated", await self._count(JobKind.ROTATE_TRANSIT_KEY))
        async for item in self._waiting(JobKind.ROTATE_TRANSIT_KEY):
            # Should this process die here, the key gets one version more than it needs.
            await self._store.rotate_key(item.organization_id)
            caller = operator(item.organization_id)
            async with self._units.writing(item.organization_id) as uow:
                await audit.record(uow, caller, AuditAction.TRANSIT_KEY_ROTATED, None)
                await uow[QueueRepository].remove(item)
                await uow.commit()
            count.add()
        if count.done:
            count.tell()

    async def _pass(self) -> dict[_Outcome, list[str]]:
        stuck: dict[_Outcome, list[str]] = {}
        count = Count(
            self._progress,
            "credentials and endpoints under the newest keys",
            await self._count(JobKind.REWRAP_SECRETS),
        )
        async for item in self._waiting(JobKind.REWRAP_SECRETS):
            outcome = await self._rewrap_all_of(
                SecretRef(organization_id=item.organization_id, credential_id=item.id)
            )
            if outcome is not _Outcome.DONE:
                stuck.setdefault(outcome, []).append(f"{item.organization_id}/{item.id}")
                continue
            async with self._units.writing(item.organization_id) as uow:
                await uow[QueueRepository].remove(item)
                await uow.commit()
            count.add()
        count.tell()
        return stuck

    def _refuse(self, stuck: dict[_Outcome, list[str]]) -> None:
        if full := stuck.get(_Outcome.FULL):
            raise OperationRefused(
                "too many versions: one more would push out a key that is kept. Destroy the versions before, rotate"
                " these credentials, then run it again",
                *full,
            )
        if unopenable := stuck.get(_Outcome.UNOPENABLE):
            raise OperationRefused(
                "Vault cannot open these. Restore Vault, or delete them, then run it again", *unopenable
            )
        if busy := stuck.get(_Outcome.BUSY):
            raise OperationRefused("these are being changed. Run it again", *busy)

    async def _rewrap_all_of(self, ref: SecretRef) -> _Outcome:
        """Oldest first, so that the number that may be pushed out is the first to move on."""
        async with self._units.reading(ref.organization_id) as uow:
            ref = await with_kind(uow, ref)
            under_way = await uow[RewrapRepository].find(ref.credential_id)
            held = await uow[SecretInventoryRepository].of(ref.credential_id)
        if under_way is not None:  # a run that died began it; there is no other one
            await self._rewraps.settle(ref.organization_id, under_way.intent_id)
            return await self._rewrap_all_of(ref)
        for secret in held:
            try:
                if not await self._store.is_outdated(ref, secret.store_version):
                    continue
            except SecretMissing:
                return await self._gone_or_changed(ref, secret)
            except SecretCorrupt:
                return _Outcome.UNOPENABLE
            outcome = await self._rewrap(ref, secret)
            if outcome is not _Outcome.DONE:
                return outcome
        return _Outcome.DONE

    async def _gone_or_changed(self, ref: SecretRef, secret: StoredSecret) -> _Outcome:
        async with self._units.reading(ref.organization_id) as uow:
            held = await uow[SecretInventoryRepository].of(ref.credential_id)
        return _Outcome.UNOPENABLE if secret in held else _Outcome.BUSY

    async def _rewrap(self, ref: SecretRef, secret: StoredSecret) -> _Outcome:
        announced = await self._announce(ref, secret, await self._store.current_version(ref))
        if isinstance(announced, _Outcome):
            return announced
        written = None
        try:
            written = await self._store.rewrap(
                ref,
                secret.store_version,
                intent_id=announced.intent_id,
                expected_version=announced.expected_store_version,
            )
        except (CasMismatch, SecretMissing):
            pass  # another write or the end of the key came first
        except SecretCorrupt:
            await self._rewraps.settle(ref.organization_id, announced.intent_id)
            return _Outcome.UNOPENABLE
        is_pointed = written is not None and await self._point(ref, announced, written)
        await self._rewraps.settle(ref.organization_id, announced.intent_id)
        return _Outcome.DONE if is_pointed else _Outcome.BUSY

    async def _announce(self, ref: SecretRef, secret: StoredSecret, at: int) -> Rewrap | _Outcome:
        """Step 1; instead BUSY where a rotation is writing, FULL where the oldest kept would be pushed out."""
        rewrap = Rewrap(
            intent_id=new_id(),
            credential_id=ref.credential_id,
            key_version=secret.key_version,
            state=RewrapState.INTENT,
            from_store_version=secret.store_version,
            expected_store_version=at,
        )
        async with self._units.writing(ref.organization_id) as uow:
            standing = await lock_standing(uow, ref)
            is_there = secret in await uow[SecretInventoryRepository].of(ref.credential_id)
            if standing.is_writing or not is_there or max(standing.store_versions) > at:
                return _Outcome.BUSY
            if not has_room(min(standing.store_versions), at):
                return _Outcome.FULL
            await uow[RewrapRepository].insert(rewrap)
            await uow[QueueRepository].add(
                settling_of(ref.organization_id, rewrap.intent_id), due_at=now() + INTENT_DEADLINE
            )
            await uow.commit()
        return rewrap

    async def _point(self, ref: SecretRef, rewrap: Rewrap, written: int) -> bool:
        """Step 3."""
        named = {} if rewrap.key_version is None else {"key_version": rewrap.key_version}
        async with self._units.writing(ref.organization_id) as uow:
            await lock(uow, ref)
            if not await uow[RewrapRepository].move(
                rewrap.intent_id, expected=RewrapState.INTENT, to=RewrapState.MOVED
            ) or not await uow[RewrapRepository].point(rewrap, written):
                return False
            await record(uow, ref, AuditAction.SECRET_REWRAPPED, store="vault", **named)
            await uow.commit()
        return True

    async def _count(self, kind: JobKind) -> int:
        async with self._units.across(QueueRepository) as (queue, _):
            return await queue.count(kind)

    async def _waiting(self, kind: JobKind) -> AsyncIterator[DueItem]:
        after: DueItem | None = None
        while True:
            async with self._units.across(QueueRepository) as (queue, _):
                page = await queue.waiting(kind, after=after, at_most=PAGE)
            for item in page:
                yield item
            if not page:
                return
            after = page[-1]
