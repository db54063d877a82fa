"""Move all keys from the embedded store to Vault. No instance runs meanwhile.

Every step may be the last one before a crash, and the next run goes on from there. A secret keeps its
number and its intent in Vault; numbers of ended ones are taken by tombstones. So rows stay as they are
but for their fingerprints, which are made with another key there.

1. The database notes that its keys are moving: no instance starts, and no straggler writes.
2. Credential by credential: a note that there may be a copy, the copy, its check, then in one transaction
   the fingerprints, the claims on them, and a note that the copy is good.
3. The database notes that its keys lie in Vault. Until here the embedded store is the one that counts.
4. What is left in the embedded store is destroyed.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from app.domain.audit import AuditAction
from app.domain.clock import now
from app.domain.rotation import MOST_STORE_VERSIONS
from app.repositories.held_secrets import HeldSecret
from app.repositories.queue import JobKind
from app.repositories.unit_of_work import UnitOfWork, UnitsOfWork
from app.secret_store.base import CasMismatch, SecretCorrupt, SecretMissing, SecretRef, SecretStore
from app.secret_store.binding import VAULT, Binding, begin_move, cancel_move, complete_move, read_binding
from app.secret_store.sealed_table import SealedList, SealedRows, Slot
from app.services import audit
from app.services.operator import Count, OperationRefused, Progress, every, operator
from app.services.secret_writes import SecretWrites

# Past the deadline of every intent: nobody runs who could still be at work on one.
_ALL_DUE = timedelta(minutes=5)


class _Unmovable(Exception):
    """One credential stays behind. Says why."""


class SecretMove:
    """One command.

    Args:
        source: the embedded store.
        target: Vault.
        sealed: which credentials have secrets in the source.
        progress: told each step.
    """

    def __init__(
        self,
        units: UnitsOfWork,
        *,
        source: SecretStore,
        target: SecretStore,
        sealed: SealedList,
        progress: Progress,
    ) -> None:
        self._units = units
        self._source = source
        self._target = target
        self._sealed = sealed
        self._progress = progress

    async def run(self) -> None:
        """All of it, or what a run that was stopped has left.

        Raises:
            OperationRefused, SecretStoreUnavailable, DatabaseUnavailable
        """
        binding = await self._binding()
        if binding.identity != VAULT:
            await self._target.ping()
            if binding.moving_to is None:
                await self._begin()
            await self._copy_all()
            await self._complete()
        await self._destroy_left()

    async def cancel(self) -> None:
        """Stay with the embedded store, while that is still possible.

        Raises:
            OperationRefused, SecretStoreUnavailable, DatabaseUnavailable
        """
        binding = await self._binding()
        if binding.identity == VAULT or binding.moving_to is None:
            raise OperationRefused(
                "there is no move to cancel: it has not begun, or the keys lie in Vault already"
            )
        count = Count(self._progress, "credentials put back", len(await self._sealed.moved()))
        async for ref in every(lambda after, at_most: self._sealed.moved(after=after, at_most=at_most)):
            await self._put_back(ref)
            count.add()
        count.tell()
        caller = operator()
        async with self._units.writing(caller.organization_id) as uow:
            await uow.join(lambda session, _: cancel_move(session))
            await audit.record(uow, caller, AuditAction.STORE_MOVE_CANCELLED, None)
            await uow.commit()

    async def _binding(self) -> Binding:
        async with self._units.reading(operator().organization_id) as uow:
            binding = await uow.join(lambda session, _: read_binding(session))
        if binding is None:
            raise OperationRefused("there are no keys to move. Next: byok serve, with Vault from the start")
        return binding

    async def _begin(self) -> None:
        await self._settle_intents()
        caller = operator()
        async with self._units.writing(caller.organization_id) as uow:
            await uow.join(lambda session, _: begin_move(session))
            await audit.record(uow, caller, AuditAction.STORE_MOVE_STARTED, None, to=VAULT)
            await uow.commit()
        self._progress("the keys are moving: no instance can start until this has come to its end")

    async def _settle_intents(self) -> None:
        """Saves that died before their key was in use: nobody is left who could go on with them."""
        writes = SecretWrites(self._units, self._source)
        while True:
            async with self._units.queue() as (queue, session):
                due = await queue.take(JobKind.SETTLE_INTENT, now=now() + _ALL_DUE)
                await session.commit()
            if not due:
                return
            for item in due:
                await writes.settle(item.organization_id, item.id)

    async def _copy_all(self) -> None:
        stuck: list[str] = []
        count = Count(self._progress, "credentials moved", len(await self._sealed.unmoved()))
        async for ref in every(lambda after, at_most: self._sealed.unmoved(after=after, at_most=at_most)):
            try:
                await self._move_one(ref)
            except _Unmovable as reason:
                stuck.append(f"{ref.organization_id}/{ref.credential_id} ({reason})")
            else:
                count.add()
        count.tell()
        if stuck:
            raise OperationRefused(
                "some credentials stay in the embedded store, and so do all until these are mended. Run it again then;"
                " `byok migrate-secrets --cancel` lets the service run meanwhile",
                *stuck,
            )

    async def _move_one(self, ref: SecretRef) -> None:
        async with self._units.writing(ref.organization_id) as uow:
            sealed = uow.join(SealedRows)
            slots = await sealed.slots(ref.credential_id)
            held = await uow.held_secrets.of(ref.credential_id)
            await sealed.mark_unchecked(ref.credential_id)
            await uow.commit()
        try:
            await self._copy(ref, slots, held)
            checked = [await self._check(ref, slots, secret) for secret in held]
        except CasMismatch:
            raise _Unmovable("its numbers are taken in Vault") from None
        except SecretMissing:
            raise _Unmovable("a secret is missing") from None
        except SecretCorrupt:
            raise _Unmovable("a secret cannot be opened") from None
        async with self._units.writing(ref.organization_id) as uow:
            await uow.versions.lock(ref.credential_id)
            if await uow.held_secrets.of(ref.credential_id) != held:
                raise _Unmovable("it has changed meanwhile: is an instance running?")
            await _refingerprint(uow, ref, checked, AuditAction.SECRET_MOVED)
            await uow.join(SealedRows).mark_moved(ref.credential_id)
            await uow.commit()

    async def _copy(self, ref: SecretRef, slots: Sequence[Slot], held: Sequence[HeldSecret]) -> None:
        """Every number in its order, by its own intent. Repeating it changes nothing."""
        if not held:
            await self._target.purge(ref)  # copied by an earlier run, and ended since
            return
        kept = {secret.store_version for secret in held}
        if slots[-1].store_version - min(kept) >= MOST_STORE_VERSIONS:
            raise _Unmovable("too many versions: rotate it, and destroy the version before")
        ended = []
        for slot in slots:
            number, intent_id = slot.store_version, slot.intent_id
            if number in kept:
                if intent_id is None:
                    raise SecretMissing
                key = await self._source.read(ref, number)
                await self._target.write(ref, key, intent_id=intent_id, expected_version=number - 1)
            elif not await self._target.tombstone(
                ref, intent_id=intent_id or ref.credential_id, expected_version=number - 1
            ):
                ended.append(number)
        await self._target.destroy(ref, *ended)
        if await self._target.current_version(ref) > slots[-1].store_version:
            raise CasMismatch

    async def _check(self, ref: SecretRef, slots: Sequence[Slot], secret: HeldSecret) -> HeldSecret:
        """What Vault gives back is the row's key, by the same intent. Returns it with its fingerprint there."""
        number, organization_id = secret.store_version, ref.organization_id
        if await self._target.intent_at(ref, number) not in [
            s.intent_id for s in slots if s.store_version == number
        ]:
            raise CasMismatch
        copy = await self._target.read(ref, number)
        if await self._source.fingerprint(organization_id, copy) != secret.fingerprint:
            raise _Unmovable("its copy is another key")
        return replace(secret, fingerprint=await self._target.fingerprint(organization_id, copy))

    async def _complete(self) -> None:
        if await self._sealed.unmoved(at_most=1):
            raise OperationRefused(
                "keys came into the embedded store meanwhile. Stop all instances, and run it again"
            )
        caller = operator()
        async with self._units.writing(caller.organization_id) as uow:
            await uow.join(lambda session, _: complete_move(session))
            await audit.record(uow, caller, AuditAction.STORE_MOVED, None, to=VAULT)
            await uow.commit()
        self._progress("the keys lie in Vault: from now on instances start with BYOK_VAULT__ADDRESS alone")

    async def _destroy_left(self) -> None:
        count = Count(
            self._progress, "credentials destroyed in the embedded store", len(await self._sealed.left())
        )
        async for ref in every(lambda after, at_most: self._sealed.left(after=after, at_most=at_most)):
            async with self._units.writing(ref.organization_id) as uow:
                await uow.join(SealedRows).destroy(ref.credential_id)
                await uow.commit()
            count.add()
        count.tell()

    async def _put_back(self, ref: SecretRef) -> None:
        async with self._units.reading(ref.organization_id) as uow:
            held = await uow.held_secrets.of(ref.credential_id)
        restored = []
        for secret in held:
            key = await self._source.read(ref, secret.store_version)
            fingerprint = await self._source.fingerprint(ref.organization_id, key)
            restored.append(replace(secret, fingerprint=fingerprint))
        async with self._units.writing(ref.organization_id) as uow:
            await uow.versions.lock(ref.credential_id)
            await _refingerprint(uow, ref, restored, AuditAction.SECRET_MOVE_CANCELLED)
            await uow.join(SealedRows).mark_unchecked(ref.credential_id)
            await uow.commit()


async def _refingerprint(
    uow: UnitOfWork, ref: SecretRef, secrets: Sequence[HeldSecret], action: AuditAction
) -> None:
    """Fingerprints, claims and the trail, in one transaction: a key that is there twice stays refused."""
    if not secrets:
        return
    await uow.held_secrets.set_fingerprints(ref.credential_id, secrets)
    await uow.credentials.touch(ref.credential_id, now=now())
    key_versions = " ".join(str(secret.key_version) for secret in secrets)
    await audit.record(
        uow, operator(ref.organization_id), action, ref.credential_id, key_versions=key_versions
    )
