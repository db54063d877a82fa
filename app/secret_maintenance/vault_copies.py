"""Copies of secrets in another store, at the same numbers and by the same intents. For the move to Vault."""

from collections.abc import Sequence
from dataclasses import replace

from app.core.api_key import ApiKey
from app.credentials.rotations import MOST_STORE_VERSIONS
from app.secret_maintenance.inventory import read
from app.secret_maintenance.inventory_repository import StoredSecret
from app.secret_store.embedded.table import Slot
from app.secret_store.port import (
    CasMismatch,
    SecretCorrupt,
    SecretKind,
    SecretMissing,
    SecretRef,
    SecretStore,
)


class Unmovable(Exception):
    """One credential or endpoint stays behind. Says why."""


class VaultCopies:
    """Repeating any of it changes nothing.

    Args:
        source: the embedded store.
        target: Vault.
    """

    def __init__(self, source: SecretStore, target: SecretStore) -> None:
        self._source = source
        self._target = target

    async def make(
        self, ref: SecretRef, slots: Sequence[Slot], held: Sequence[StoredSecret]
    ) -> Sequence[StoredSecret]:
        """Copy and check; returns what is held with its fingerprints there.

        Raises:
            Unmovable, SecretStoreUnavailable
        """
        try:
            await self._copy(ref, slots, held)
            return [await self._check(ref, slots, secret) for secret in held]
        except CasMismatch:
            raise Unmovable("its numbers are taken in Vault") from None
        except SecretMissing:
            raise Unmovable("a secret is missing") from None
        except SecretCorrupt:
            raise Unmovable("a secret cannot be opened") from None

    async def _copy(self, ref: SecretRef, slots: Sequence[Slot], held: Sequence[StoredSecret]) -> None:
        """Every number in its order, by its own intent."""
        if not held:
            # Copied by an earlier run, and ended since. No row need be left that tells of which kind it was.
            for kind in SecretKind:
                await self._target.purge(replace(ref, kind=kind))
            return
        kept = {secret.store_version for secret in held}
        if slots[-1].store_version - min(kept) >= MOST_STORE_VERSIONS:
            raise Unmovable("too many versions: rotate it, and destroy the version before")
        ended = []
        for slot in slots:
            number, intent_id = slot.store_version, slot.intent_id
            if number in kept:
                if intent_id is None:
                    raise SecretMissing
                secret = await read(self._source, ref, number)
                await self._target.write(ref, secret, intent_id=intent_id, expected_version=number - 1)
            elif not await self._target.tombstone(
                ref, intent_id=intent_id or ref.credential_id, expected_version=number - 1
            ):
                ended.append(number)
        await self._target.destroy(ref, *ended)
        if await self._target.current_version(ref) > slots[-1].store_version:
            raise CasMismatch

    async def _check(self, ref: SecretRef, slots: Sequence[Slot], secret: StoredSecret) -> StoredSecret:
        """What Vault gives back is the row's secret, by the same intent."""
        number, organization_id = secret.store_version, ref.organization_id
        if await self._target.intent_at(ref, number) not in [
            s.intent_id for s in slots if s.store_version == number
        ]:
            raise CasMismatch
        copy = await read(self._target, ref, number)
        if not isinstance(copy, ApiKey):  # no row has its fingerprint: the two themselves are compared
            if copy != await read(self._source, ref, number):
                raise Unmovable("its copy is another one")
            return secret
        if await self._source.fingerprint(organization_id, copy) != secret.fingerprint:
            raise Unmovable("its copy is another one")
        return replace(secret, fingerprint=await self._target.fingerprint(organization_id, copy))
