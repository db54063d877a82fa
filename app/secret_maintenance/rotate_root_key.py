"""Rotate the embedded store's root key: a new one seals, all data keys go under it, then the others are dropped.

Every step may be the last one before a crash, and the next run goes on from there. Instances that
run meanwhile read the keyset again; from step 2 on the database lets nobody seal with an old root.

1. The new root key is in the keyset file: everything old and new can be opened.
2. The database notes it as the only one that seals, once everybody who was sealing is done.
3. Data keys are wrapped anew, credential by credential. Payloads are not opened.
4. Nothing is sealed under another root key any more, and nothing can be: the others leave the file.
"""

from app.audit import service as audit
from app.audit.events import AuditAction
from app.database.unit_of_work import UnitsOfWork
from app.secret_maintenance.inventory import record, with_kind
from app.secret_maintenance.progress import Count, OperationRefused, Progress, every, operator
from app.secret_store.binding import allow_root
from app.secret_store.embedded.keyring import Keyring
from app.secret_store.embedded.keyset import Keyset
from app.secret_store.embedded.table import Rewrapped, SealedList, SealedRows
from app.secret_store.port import SecretRef


class RotateRootKey:
    """One command.

    Args:
        keys: the keyset and its file.
        sealed: which credentials are sealed under what.
        progress: told each step.
    """

    def __init__(self, units: UnitsOfWork, keys: Keyring, sealed: SealedList, progress: Progress) -> None:
        self._units = units
        self._keys = keys
        self._sealed = sealed
        self._progress = progress

    async def prepare(self) -> None:
        """Only put a new root key into the file, so that the file can be copied to other machines first.

        Raises:
            OperationRefused, KeysetRefused
        """
        if len(self._keys.keyset.roots) > 1:
            raise OperationRefused(
                "the keyset holds more than one root key already: a rotation is prepared or was stopped."
                " Next: copy the file to every machine, then byok rotate-root"
            )
        self._keys.replace(self._keys.keyset.with_new_root())
        self._progress(f"the keyset holds the next root key, {self._keys.keyset.newest_id}")

    async def run(self) -> None:
        """All of it, or what a run that was stopped has left.

        Raises:
            OperationRefused, KeysetRefused, DatabaseUnavailable
        """
        keyset = self._make_primary()
        await self._allow(keyset)
        unopenable = await self._rewrap(keyset)
        if unopenable:
            raise OperationRefused(
                "some sealed keys cannot be opened by any root key, and none was dropped. Restore their rows, or delete"
                " these credentials, then run it again",
                *unopenable,
            )
        await self._drop_others(keyset)

    def _make_primary(self) -> Keyset:
        keyset = self._keys.keyset
        if len(keyset.roots) == 1:
            self._keys.replace(keyset.with_new_primary())
            self._progress(f"root key {self._keys.keyset.primary_id} is in the keyset and seals from now on")
        else:
            if keyset.primary_id != keyset.newest_id:
                self._keys.replace(keyset.with_primary(keyset.newest_id))
            self._progress(f"going on with root key {self._keys.keyset.primary_id}")
        return self._keys.keyset

    async def _allow(self, keyset: Keyset) -> None:
        caller = operator()
        async with self._units.writing(caller.organization_id) as uow:
            await uow.join(lambda session, _: allow_root(session, keyset.primary_id))
            await audit.record(
                uow, caller, AuditAction.ROOT_ROTATION_STARTED, None, root_id=keyset.primary_id
            )
            await uow.commit()

    async def _rewrap(self, keyset: Keyset) -> list[str]:
        """Everything that is under another root key; returns what cannot be opened."""
        unopenable: list[str] = []
        total = len(await self._sealed.outside_root(keyset.primary_id))
        count = Count(self._progress, "credentials and endpoints rewrapped", total)
        async for ref in every(
            lambda after, at_most: self._sealed.outside_root(keyset.primary_id, after=after, at_most=at_most)
        ):
            rewrapped = await self._rewrap_one(ref, keyset)
            count.add()
            unopenable += [f"{ref.organization_id}/{ref.credential_id}/{n}" for n in rewrapped.unopenable]
        count.tell()
        return unopenable

    async def _rewrap_one(self, ref: SecretRef, keyset: Keyset) -> Rewrapped:
        async with self._units.writing(ref.organization_id) as uow:
            rewrapped = await uow.join(SealedRows).rewrap(ref.credential_id, keyset)
            if rewrapped.done:
                await record(
                    uow,
                    await with_kind(uow, ref),
                    AuditAction.SECRET_REWRAPPED,
                    store="embedded",
                    store_versions=" ".join(map(str, rewrapped.done)),
                )
            await uow.commit()
        return rewrapped

    async def _drop_others(self, keyset: Keyset) -> None:
        if await self._sealed.outside_root(keyset.primary_id, at_most=1):
            raise OperationRefused(
                "sealed keys came back under an old root key, as from a backup. Run it again"
            )
        others = [key_id for key_id in keyset.roots if key_id != keyset.primary_id]
        kept = keyset
        for key_id in others:
            kept = kept.without(key_id)
        caller = operator()
        async with self._units.writing(caller.organization_id) as uow:
            await audit.record(
                uow,
                caller,
                AuditAction.ROOT_ROTATED,
                None,
                root_id=keyset.primary_id,
                dropped=" ".join(others),
            )
            await uow.commit()
        self._keys.replace(kept)
        self._progress(f"dropped root key {', '.join(others)}: what was destroyed cannot be opened any more")
