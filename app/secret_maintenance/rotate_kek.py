"""Rotates the embedded store's key-encryption key (KEK): a new one encrypts, and wraps all DEKs; the others are removed.

The command may crash after any step; the next run continues there. Instances that run meanwhile read
the keyset file again. From step 2 on, the database refuses encryption under an old KEK.

1. Write the new KEK to the keyset file. Everything, old and new, can be decrypted.
2. Record in the database that only the new KEK may encrypt, after writes under way have ended.
3. Rewrap the DEKs, credential by credential. Payloads are not decrypted.
4. Remove the other KEKs from the file: no secret is encrypted under them, and none can be.
"""

from functools import partial

from app.audit import service as audit
from app.audit.events import AuditAction
from app.database.unit_of_work import UnitsOfWork
from app.secret_maintenance.inventory import record_event, resolve_kind
from app.secret_maintenance.progress import (
    OperationRefused,
    Progress,
    ProgressCounter,
    count_entries,
    iterate_pages,
    operator_caller,
)
from app.secret_store.binding import require_kek
from app.secret_store.embedded.keyring import Keyring
from app.secret_store.embedded.keyset import Keyset
from app.secret_store.embedded.table import EncryptedRows, EncryptedSecretList, RewrapResult
from app.secret_store.port import SecretRef


class RotateKek:
    """`byok rotate-root`.

    Args:
        keys: the keyset and its file.
        encrypted: lists the credentials and endpoints by the KEK of their secrets.
        progress: called with one line for each step.
    """

    def __init__(
        self, units: UnitsOfWork, keys: Keyring, encrypted: EncryptedSecretList, progress: Progress
    ) -> None:
        self._units = units
        self._keys = keys
        self._encrypted = encrypted
        self._progress = progress

    async def prepare(self) -> None:
        """Only add a new KEK to the file, so that the file can be copied to other machines before the rotation.

        Raises:
            OperationRefused, KeysetRefused
        """
        if len(self._keys.keyset.keks) > 1:
            raise OperationRefused(
                "the keyset already holds more than one key-encryption key: a rotation is prepared or was interrupted."
                " Next: copy the file to every machine, then byok rotate-root"
            )
        self._keys.replace(self._keys.keyset.with_new_kek())
        self._progress(f"the keyset holds the next key-encryption key, {self._keys.keyset.newest_kek_id}")

    async def run(self) -> None:
        """Rotate the KEK, or continue an interrupted rotation.

        Raises:
            OperationRefused, KeysetRefused, DatabaseUnavailable
        """
        keyset = self._make_primary()
        await self._require_kek(keyset)
        undecryptable = await self._rewrap(keyset)
        if undecryptable:
            raise OperationRefused(
                "some secrets cannot be decrypted, so no key-encryption key was removed. Restore their rows or delete"
                " these credentials, then run the command again",
                *undecryptable,
            )
        await self._remove_old_keks(keyset)

    def _make_primary(self) -> Keyset:
        keyset = self._keys.keyset
        if len(keyset.keks) == 1:
            self._keys.replace(keyset.with_new_primary_kek())
            self._progress(
                f"key-encryption key {self._keys.keyset.primary_kek_id} is in the keyset and encrypts from now on"
            )
        else:
            if keyset.primary_kek_id != keyset.newest_kek_id:
                self._keys.replace(keyset.with_primary_kek(keyset.newest_kek_id))
            self._progress(f"continuing with key-encryption key {self._keys.keyset.primary_kek_id}")
        return self._keys.keyset

    async def _require_kek(self, keyset: Keyset) -> None:
        caller = operator_caller()
        async with self._units.writing(caller.organization_id) as uow:
            await uow.join(lambda session, _: require_kek(session, keyset.primary_kek_id))
            await audit.record(
                uow, caller, AuditAction.ROOT_ROTATION_STARTED, None, root_id=keyset.primary_kek_id
            )
            await uow.commit()

    async def _rewrap(self, keyset: Keyset) -> list[str]:
        """Rewrap all DEKs that are under another KEK. Returns the secrets that cannot be decrypted."""
        undecryptable: list[str] = []
        outside = partial(self._encrypted.outside_kek, keyset.primary_kek_id)
        total = await count_entries(self._units, outside)
        counter = ProgressCounter(self._progress, "credentials and endpoints rewrapped", total)
        async for ref in iterate_pages(self._units, outside):
            result = await self._rewrap_one(ref, keyset)
            counter.add()
            undecryptable += [f"{ref.organization_id}/{ref.credential_id}/{n}" for n in result.undecryptable]
        counter.report()
        return undecryptable

    async def _rewrap_one(self, ref: SecretRef, keyset: Keyset) -> RewrapResult:
        async with self._units.writing(ref.organization_id) as uow:
            result = await uow.join(EncryptedRows).rewrap(ref.credential_id, keyset)
            if result.rewrapped:
                await record_event(
                    uow,
                    await resolve_kind(uow, ref),
                    AuditAction.SECRET_REWRAPPED,
                    store="embedded",
                    store_versions=" ".join(map(str, result.rewrapped)),
                )
            await uow.commit()
        return result

    async def _remove_old_keks(self, keyset: Keyset) -> None:
        outside = partial(self._encrypted.outside_kek, keyset.primary_kek_id)
        if await count_entries(self._units, outside, at_most=1):
            raise OperationRefused(
                "secrets under an old key-encryption key appeared, perhaps from a backup. Run the command again"
            )
        others = [key_id for key_id in keyset.keks if key_id != keyset.primary_kek_id]
        kept = keyset
        for key_id in others:
            kept = kept.without_kek(key_id)
        caller = operator_caller()
        async with self._units.writing(caller.organization_id) as uow:
            await audit.record(
                uow,
                caller,
                AuditAction.ROOT_ROTATED,
                None,
                root_id=keyset.primary_kek_id,
                dropped=" ".join(others),
            )
            await uow.commit()
        self._keys.replace(kept)
        self._progress(
            f"removed key-encryption key {', '.join(others)}: destroyed secrets cannot be decrypted any more"
        )
