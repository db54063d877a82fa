"""Moves all secrets, provider keys and webhook signing secrets, from the embedded store to Vault. No instance may run.

The command may crash after any step; the next run continues there. In Vault a secret keeps its number
and its intent, and tombstones take the numbers of destroyed secrets. So rows do not change, except for
the fingerprints, which Vault computes with another key.

1. The database records that its keys are being moved: no instance can start, and none can write.
2. For each credential and endpoint: record that an unverified copy may exist, copy, and verify the copy.
   Then update the fingerprints and their claims and record the copy as verified, in one transaction.
3. The database records Vault as its store. Up to this point the embedded store is the valid one.
4. The secrets that remain in the embedded store are destroyed.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from app.audit import service as audit
from app.audit.events import AuditAction
from app.core.clock import now
from app.core.keys.api_key import ApiKey
from app.credentials.repository import CredentialRepository
from app.credentials.write_protocol import WriteProtocol
from app.database.cells.directory import in_cell
from app.database.unit_of_work import UnitOfWork, UnitsOfWork
from app.jobs.queue import DueItem, JobKind, QueueRepository
from app.secret_maintenance.inventory import lock_row, read_secret, record_event, resolve_kind
from app.secret_maintenance.inventory_repository import SecretInventoryRepository, StoredSecret
from app.secret_maintenance.progress import (
    OperationRefused,
    Progress,
    ProgressCounter,
    count_entries,
    iterate_pages,
    operator_caller,
)
from app.secret_maintenance.vault_copies import CannotMove, VaultCopies
from app.secret_store.binding import VAULT, Binding, begin_move, cancel_move, complete_move, read_binding
from app.secret_store.embedded.table import EncryptedRows, EncryptedSecretList
from app.secret_store.port import SecretKind, SecretRef, SecretStore
from app.webhooks.signing_secrets import SigningSecrets

# Longer than the deadline of every intent. No instance runs that could still be working on one.
_INTENT_DEADLINE_PASSED = timedelta(minutes=5)


class MoveToVault:
    """`byok migrate-secrets`.

    Args:
        source: the embedded store.
        target: Vault.
        encrypted: lists the credentials and endpoints that have secrets in the source.
        progress: called with one line for each step.
    """

    def __init__(
        self,
        units: UnitsOfWork,
        *,
        source: SecretStore,
        target: SecretStore,
        encrypted: EncryptedSecretList,
        progress: Progress,
    ) -> None:
        self._units = units
        self._source = source
        self._target = target
        self._copies = VaultCopies(source, target)
        self._encrypted = encrypted
        self._progress = progress

    async def run(self) -> None:
        """Move all secrets, or continue an interrupted move.

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
        await self._destroy_remaining()

    async def cancel(self) -> None:
        """Cancel a move that is not complete, and keep the embedded store.

        Raises:
            OperationRefused, SecretStoreUnavailable, DatabaseUnavailable
        """
        binding = await self._binding()
        if binding.identity == VAULT or binding.moving_to is None:
            raise OperationRefused("cannot cancel: no move has begun, or the keys are in Vault already")
        counter = ProgressCounter(
            self._progress,
            "credentials and endpoints restored",
            await count_entries(self._units, self._encrypted.moved),
        )
        async for ref in iterate_pages(self._units, self._encrypted.moved):
            await self._restore(ref)
            counter.add()
        counter.report()
        caller = operator_caller()
        async with self._units.writing(caller.organization_id) as uow:
            await uow.join(lambda session, _: cancel_move(session))
            await audit.record(uow, caller, AuditAction.STORE_MOVE_CANCELLED, None)
            await uow.commit()

    async def _binding(self) -> Binding:
        async with self._units.reading(operator_caller().organization_id) as uow:
            binding = await uow.join(lambda session, _: read_binding(session))
        if binding is None:
            raise OperationRefused(
                "this database has no keys to move. Next: byok serve, with Vault from the start"
            )
        return binding

    async def _begin(self) -> None:
        await self._reconcile_intents()
        caller = operator_caller()
        async with self._units.writing(caller.organization_id) as uow:
            await uow.join(lambda session, _: begin_move(session))
            await audit.record(uow, caller, AuditAction.STORE_MOVE_STARTED, None, to=VAULT)
            await uow.commit()
        self._progress("the keys are being moved: no instance can start until the move is complete")

    async def _reconcile_intents(self) -> None:
        """Reconcile interrupted writes now, because no instance runs that would do it later."""
        await self._reconcile_all(JobKind.SETTLE_INTENT, WriteProtocol(self._units, self._source).reconcile)
        await self._reconcile_all(JobKind.SETTLE_WEBHOOK, SigningSecrets(self._units, self._source).reconcile)

    async def _reconcile_all(self, kind: JobKind, reconcile: Callable[[str, UUID], Awaitable[None]]) -> None:
        for cell in await self._units.cells():
            while due := await self._claim(cell, kind):
                for item in due:
                    await reconcile(item.organization_id, item.id)

    async def _claim(self, cell: str, kind: JobKind) -> Sequence[DueItem]:
        with in_cell(cell):
            async with self._units.unscoped(QueueRepository) as (queue, session):
                due = await queue.claim(kind, now=now() + _INTENT_DEADLINE_PASSED)
                await session.commit()
        return due

    async def _copy_all(self) -> None:
        stuck: list[str] = []
        counter = ProgressCounter(
            self._progress,
            "credentials and endpoints moved",
            await count_entries(self._units, self._encrypted.unmoved),
        )
        async for ref in iterate_pages(self._units, self._encrypted.unmoved):
            try:
                await self._move_one(ref)
            except CannotMove as problem:
                stuck.append(f"{ref.organization_id}/{ref.credential_id} ({problem})")
            else:
                counter.add()
        counter.report()
        if stuck:
            raise OperationRefused(
                "some credentials or endpoints cannot be moved, so all keep using the embedded store. Fix these, then run the"
                " command again. To run the service before that, use `byok migrate-secrets --cancel`",
                *stuck,
            )

    async def _move_one(self, ref: SecretRef) -> None:
        async with self._units.writing(ref.organization_id) as uow:
            encrypted = uow.join(EncryptedRows)
            taken_versions = await encrypted.taken_versions(ref.credential_id)
            secrets = await uow[SecretInventoryRepository].list_for(ref.credential_id)
            ref = await resolve_kind(uow, ref)
            await encrypted.mark_unverified(ref.credential_id)
            await uow.commit()
        copied = await self._copies.copy_and_verify(ref, taken_versions, secrets)
        async with self._units.writing(ref.organization_id) as uow:
            await lock_row(uow, ref)
            if await uow[SecretInventoryRepository].list_for(ref.credential_id) != secrets:
                raise CannotMove("it has changed during the move; stop all instances")
            await _record_move(uow, ref, copied, AuditAction.SECRET_MOVED)
            await uow.join(EncryptedRows).mark_moved(ref.credential_id)
            await uow.commit()

    async def _complete(self) -> None:
        if await count_entries(self._units, self._encrypted.unmoved, at_most=1):
            raise OperationRefused(
                "keys were added to the embedded store during the move. Stop all instances, then run the command again"
            )
        caller = operator_caller()
        async with self._units.writing(caller.organization_id) as uow:
            await uow.join(lambda session, _: complete_move(session))
            await audit.record(uow, caller, AuditAction.STORE_MOVED, None, to=VAULT)
            await uow.commit()
        self._progress("the keys are in Vault: from now on instances start only with BYOK_VAULT__ADDRESS set")

    async def _destroy_remaining(self) -> None:
        counter = ProgressCounter(
            self._progress,
            "credentials and endpoints destroyed in the embedded store",
            await count_entries(self._units, self._encrypted.remaining),
        )
        async for ref in iterate_pages(self._units, self._encrypted.remaining):
            async with self._units.writing(ref.organization_id) as uow:
                await uow.join(EncryptedRows).destroy_all(ref.credential_id)
                await uow.commit()
            counter.add()
        counter.report()

    async def _restore(self, ref: SecretRef) -> None:
        async with self._units.reading(ref.organization_id) as uow:
            secrets = await uow[SecretInventoryRepository].list_for(ref.credential_id)
            ref = await resolve_kind(uow, ref)
        restored = []
        for secret in secrets:
            found = await read_secret(self._source, ref, secret.store_version)
            if isinstance(found, ApiKey):
                fingerprint = await self._source.fingerprint(ref.organization_id, found)
                restored.append(replace(secret, fingerprint=fingerprint))
            else:
                restored.append(secret)
        async with self._units.writing(ref.organization_id) as uow:
            await lock_row(uow, ref)
            await _record_move(uow, ref, restored, AuditAction.SECRET_MOVE_CANCELLED)
            await uow.join(EncryptedRows).mark_unverified(ref.credential_id)
            await uow.commit()


async def _record_move(
    uow: UnitOfWork, ref: SecretRef, secrets: Sequence[StoredSecret], action: AuditAction
) -> None:
    """Update fingerprints, claims and the audit log in one transaction, so that duplicate keys stay refused."""
    if not secrets:
        return
    if ref.kind is SecretKind.SIGNING_SECRET:  # it has no fingerprint
        await record_event(uow, ref, action)
        return
    await uow[SecretInventoryRepository].set_fingerprints(ref.credential_id, secrets)
    await uow[CredentialRepository].increment_revision(ref.credential_id, now=now())
    await record_event(uow, ref, action, key_versions=" ".join(str(secret.key_version) for secret in secrets))
