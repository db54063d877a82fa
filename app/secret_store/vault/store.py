"""HashiCorp Vault or OpenBao: transit seals, KV v2 keeps. Reading a key takes two grants.

KV holds ciphertext, and its version numbers are the store versions. Metadata is never deleted, so a
number is taken once and for all.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar
from uuid import UUID

from app.core.api_key import ApiKey
from app.core.signing_secret import SigningSecret
from app.secret_store.port import CasMismatch, SecretMissing, SecretRef, WrappedSecret
from app.secret_store.vault.engines import Transit, Versions
from app.secret_store.vault.responses import VaultReason, VaultUnavailable
from app.secret_store.vault.roles import VaultRole, VaultSessions

P = ParamSpec("P")
T = TypeVar("T")

# With the provider's 15 seconds this leaves a check within its own deadline of 20.
_DEADLINE_SECONDS = 4.0
_CIPHERTEXT = "ct"
_INTENT = "intent_id"
_TOMBSTONE = "tombstone"


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultMounts:
    """Where the two engines are mounted."""

    kv: str = "byok"
    transit: str = "byok-transit"


def _bounded(
    method: "Callable[Concatenate[VaultSecretStore, P], Awaitable[T]]",
) -> "Callable[Concatenate[VaultSecretStore, P], Coroutine[Any, Any, T]]":
    """However many calls a method takes, together they end by the store's deadline."""

    @wraps(method)
    async def within(store: "VaultSecretStore", /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            async with asyncio.timeout(store.deadline_seconds):
                return await method(store, *args, **kwargs)
        except TimeoutError:
            pass  # raised below, so that the context holds nothing
        raise VaultUnavailable(VaultReason.TIMEOUT)

    return within


class VaultSecretStore:
    """`SecretStore` over Vault, and leases: keys handed over without passing through us.

    Args:
        sessions: a log-in for each role; every call is made as the role with the least rights for it.
        mounts: where the engines are.
        deadline_seconds: bound of every method.
    """

    def __init__(
        self, sessions: VaultSessions, mounts: VaultMounts, *, deadline_seconds: float = _DEADLINE_SECONDS
    ) -> None:
        self.deadline_seconds = deadline_seconds
        self._sessions = sessions
        self._versions = Versions(sessions, mounts.kv)
        self._transit = Transit(sessions, mounts.transit)

    async def close(self) -> None:
        await self._sessions.close()

    @_bounded
    async def fingerprint(self, organization_id: str, key: ApiKey) -> str:
        return await self._transit.fingerprint(organization_id.encode(), key.reveal().encode())

    @_bounded
    async def current_version(self, ref: SecretRef) -> int:
        return await self._versions.last(VaultRole.WRITER, ref)

    @_bounded
    async def write(
        self, ref: SecretRef, secret: ApiKey | SigningSecret, *, intent_id: UUID, expected_version: int
    ) -> int:
        ciphertext = await self._transit.encrypt(ref, secret.reveal().encode())
        return await self._put(VaultRole.WRITER, ref, ciphertext, intent_id, expected_version)

    @_bounded
    async def tombstone(self, ref: SecretRef, *, intent_id: UUID, expected_version: int) -> bool:
        content = {_TOMBSTONE: str(intent_id)}
        if await self._versions.put(VaultRole.SWEEPER, ref, content, expected_version=expected_version):
            return True
        found = await self._versions.at(VaultRole.SWEEPER, ref, expected_version + 1)
        return found is not None and _TOMBSTONE in found

    @_bounded
    async def intent_at(self, ref: SecretRef, store_version: int) -> UUID | None:
        return await self._intent(VaultRole.SWEEPER, ref, store_version)

    @_bounded
    async def read(self, ref: SecretRef, store_version: int) -> ApiKey:
        ciphertext = await self._ciphertext(VaultRole.PROBER, ref, store_version)
        return ApiKey((await self._transit.decrypt(ref, ciphertext)).decode())

    @_bounded
    async def read_signing_secret(self, ref: SecretRef, store_version: int) -> SigningSecret:
        ciphertext = await self._ciphertext(VaultRole.PROBER, ref, store_version)
        return SigningSecret((await self._transit.decrypt(ref, ciphertext)).decode())

    @_bounded
    async def destroy(self, ref: SecretRef, *store_versions: int) -> None:
        await self._versions.destroy(ref, store_versions)

    @_bounded
    async def purge(self, ref: SecretRef) -> None:
        await self._versions.destroy_all(ref)

    @_bounded
    async def ping(self) -> None:
        await self._versions.check()
        await self._transit.check()

    @_bounded
    async def wrap_for_lease(self, ref: SecretRef, store_version: int, ttl_seconds: int) -> WrappedSecret:
        """The key, base64, in a token that opens once.

        Raises:
            SecretMissing, SecretCorrupt, SecretStoreUnavailable
        """
        ciphertext = await self._ciphertext(VaultRole.BROKER, ref, store_version)
        wrapped = await self._transit.decrypt_wrapped(ref, ciphertext, ttl_seconds)
        return WrappedSecret(
            token=wrapped["token"], accessor=wrapped["accessor"], creation_path=wrapped["creation_path"]
        )

    @_bounded
    async def revoke_wrapping(self, accessor: str) -> None:
        """What was not yet opened cannot be opened any more; tokens that are gone are no error."""
        await self._transit.revoke_wrapped(accessor)

    @_bounded
    async def rewrap(
        self, ref: SecretRef, store_version: int, *, intent_id: UUID, expected_version: int
    ) -> int:
        """The same key under the newest transit key, as store version `expected_version + 1`.

        A version in KV does not change, so this takes a number and an intent as every write does.
        Returns `store_version` where it is under the newest already. No plaintext passes through us.

        Raises:
            SecretMissing, SecretCorrupt, CasMismatch, SecretStoreUnavailable
        """
        old = await self._ciphertext(VaultRole.SWEEPER, ref, store_version)
        new = await self._transit.rewrap(ref, old)
        if _key_version(new) == _key_version(old):
            return store_version
        return await self._put(VaultRole.SWEEPER, ref, new, intent_id, expected_version)

    @_bounded
    async def is_outdated(self, ref: SecretRef, store_version: int) -> bool:
        """Whether the organization's transit key has a newer version than the one this secret is under.

        Raises:
            SecretMissing, SecretCorrupt, SecretStoreUnavailable
        """
        old = await self._ciphertext(VaultRole.SWEEPER, ref, store_version)
        return _key_version(await self._transit.rewrap(ref, old)) != _key_version(old)

    @_bounded
    async def rotate_key(self, organization_id: str) -> None:
        """A new version of the organization's transit key, which seals from now on. Older ones still open."""
        await self._transit.rotate(organization_id)

    async def _put(
        self, role: VaultRole, ref: SecretRef, ciphertext: str, intent_id: UUID, expected_version: int
    ) -> int:
        version = expected_version + 1
        content = {_CIPHERTEXT: ciphertext, _INTENT: str(intent_id)}
        # Not taken now, but perhaps by this same intent, whose answer was lost.
        if (
            await self._versions.put(role, ref, content, expected_version=expected_version)
            or await self._intent(role, ref, version) == intent_id
        ):
            return version
        raise CasMismatch

    async def _intent(self, role: VaultRole, ref: SecretRef, store_version: int) -> UUID | None:
        found = await self._versions.at(role, ref, store_version)
        return UUID(found[_INTENT]) if found and _INTENT in found else None

    async def _ciphertext(self, role: VaultRole, ref: SecretRef, store_version: int) -> str:
        found = await self._versions.at(role, ref, store_version)
        if found is None or _CIPHERTEXT not in found:
            raise SecretMissing
        return str(found[_CIPHERTEXT])


def _key_version(ciphertext: str) -> str:
    """`vault:v3` of `vault:v3:...`."""
    return ciphertext.rpartition(":")[0]
