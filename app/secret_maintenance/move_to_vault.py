"""Move all secrets from the embedded store to Vault: keys, and what webhooks are signed with. No instance runs meanwhile.

Every step may be the last one before a crash, and the next run goes on from there. A secret keeps its
number and its intent in Vault; numbers of ended ones are taken by tombstones. So rows stay as they are
but for their fingerprints, which are made with another key there.

1. The database notes that its keys are moving: no instance starts, and no straggler writes.
2. Credential by credential, and endpoint by endpoint: a note that there may be a copy, the copy, its check,
   then in one transaction the fingerprints, the claims on them, and a note that the copy is good.
3. The database notes that its keys lie in Vault. Until here the embedded store is the one that counts.
4. What is left in the embedded store is destroyed.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from app.audit import service as audit
from app.audit.events import AuditAction
from app.core.api_key import ApiKey
from app.core.clock import now
from app.credentials.repository import CredentialRepository
from app.credentials.write_protocol import WriteProtocol
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.jobs.queue import JobKind, QueueRepository
from app.secret_maintenance.inventory import lock, read, record, with_kind
from app.secret_maintenance.inventory_repository import SecretInventoryRepository, StoredSecret
from app.secret_maintenance.progress import Count, OperationRefused, Progress, every, operator
from app.secret_maintenance.vault_copies import Unmovable, VaultCopies
from app.secret_store.binding import VAULT, Binding, begin_move, cancel_move, complete_move, read_binding
from app.secret_store.embedded.table import SealedList, SealedRows
from app.secret_store.port import SecretKind, SecretRef, SecretStore
from app.webhooks.signing_secrets import SigningSecrets

# Past the deadline of every intent: nobody runs who could still be at work on one.
_ALL_DUE = timedelta(minutes=5)


class MoveToVault:
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
        self._copies = VaultCopies(source, target)
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
        count = Count(self._progress, "credentials and endpoints put back", len(await self._sealed.moved()))
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
        """Saves that died before their secret was in use: nobody is left who could go on with them."""
        await self._settle_all(JobKind.SETTLE_INTENT, WriteProtocol(self._units, self._source).settle)
        await self._settle_all(JobKind.SETTLE_WEBHOOK, SigningSecrets(self._units, self._source).settle)

    async def _settle_all(self, kind: JobKind, settle: Callable[[str, UUID], Awaitable[None]]) -> None:
        while True:
            async with self._units.across(QueueRepository) as (queue, session):
                due = await queue.take(kind, now=now() + _ALL_DUE)
                await session.commit()
            if not due:
                return
            for item in due:
                await settle(item.organization_id, item.id)

    async def _copy_all(self) -> None:
        stuck: list[str] = []
        count = Count(self._progress, "credentials and endpoints moved", len(await self._sealed.unmoved()))
        async for ref in every(lambda after, at_most: self._sealed.unmoved(after=after, at_most=at_most)):
            try:
                await self._move_one(ref)
            except Unmovable as reason:
                stuck.append(f"{ref.organization_id}/{ref.credential_id} ({reason})")
            else:
                count.add()
        count.tell()
        if stuck:
            raise OperationRefused(
                "some credentials or endpoints stay in the embedded store, and so do all until these are mended. Run it again then;"
                " `byok migrate-secrets --cancel` lets the service run meanwhile",
                *stuck,
            )

    async def _move_one(self, ref: SecretRef) -> None:
        async with self._units.writing(ref.organization_id) as uow:
            sealed = uow.join(SealedRows)
            slots = await sealed.slots(ref.credential_id)
            held = await uow[SecretInventoryRepository].of(ref.credential_id)
            ref = await with_kind(uow, ref)
            await sealed.mark_unchecked(ref.credential_id)
            await uow.commit()
        checked = await self._copies.make(ref, slots, held)
        async with self._units.writing(ref.organization_id) as uow:
            await lock(uow, ref)
            if await uow[SecretInventoryRepository].of(ref.credential_id) != held:
                raise Unmovable("it has changed meanwhile: is an instance running?")
            await _note(uow, ref, checked, AuditAction.SECRET_MOVED)
            await uow.join(SealedRows).mark_moved(ref.credential_id)
            await uow.commit()

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
            self._progress,
            "credentials and endpoints destroyed in the embedded store",
            len(await self._sealed.left()),
        )
        async for ref in every(lambda after, at_most: self._sealed.left(after=after, at_most=at_most)):
            async with self._units.writing(ref.organization_id) as uow:
                await uow.join(SealedRows).destroy(ref.credential_id)
                await uow.commit()
            count.add()
        count.tell()

    async def _put_back(self, ref: SecretRef) -> None:
        async with self._units.reading(ref.organization_id) as uow:
            held = await uow[SecretInventoryRepository].of(ref.credential_id)
            ref = await with_kind(uow, ref)
        restored = []
        for secret in held:
            found = await read(self._source, ref, secret.store_version)
            if isinstance(found, ApiKey):
                fingerprint = await self._source.fingerprint(ref.organization_id, found)
                restored.append(replace(secret, fingerprint=fingerprint))
            else:
                restored.append(secret)
        async with self._units.writing(ref.organization_id) as uow:
            await lock(uow, ref)
            await _note(uow, ref, restored, AuditAction.SECRET_MOVE_CANCELLED)
            await uow.join(SealedRows).mark_unchecked(ref.credential_id)
            await uow.commit()


async def _note(
    uow: UnitOfWork, ref: SecretRef, secrets: Sequence[StoredSecret], action: AuditAction
) -> None:
    """Fingerprints, claims and the trail, in one transaction: a key that is there twice stays refused."""
    if not secrets:
        return
    if ref.kind is SecretKind.SIGNING_SECRET:  # no row has its fingerprint
        await record(uow, ref, action)
        return
    await uow[SecretInventoryRepository].set_fingerprints(ref.credential_id, secrets)
    await uow[CredentialRepository].touch(ref.credential_id, now=now())
    await record(uow, ref, action, key_versions=" ".join(str(secret.key_version) for secret in secrets))
