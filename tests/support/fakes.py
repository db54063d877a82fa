"""An in-memory secret store. The contract tests run against it and against the real stores."""

import hashlib
import hmac
from dataclasses import dataclass
from typing import ClassVar
from uuid import UUID

from app.core.errors import SecretStoreUnavailable
from app.core.keys.api_key import ApiKey
from app.core.keys.signing_secret import SigningSecret
from app.secret_store.port import CasMismatch, SecretMissing, SecretRef


@dataclass(frozen=True, slots=True)
class Call:
    """One call to the store, without the key."""

    method: str
    ref: SecretRef | None = None
    store_version: int | None = None
    intent_id: UUID | None = None


@dataclass(slots=True)
class _Stored:
    """One version. A tombstone has no intent, a destroyed version has no key."""

    intent_id: UUID | None
    key: ApiKey | SigningSecret | None


class FakeSecretStore:
    """A `SecretStore` in memory.

    `unavailable = True` makes every call raise SecretStoreUnavailable. `calls` records all calls, including those
    that raise.
    """

    FINGERPRINT_KEY: ClassVar[bytes] = b"fingerprint key of the fake"

    def __init__(self) -> None:
        self.unavailable = False
        self.calls: list[Call] = []
        self._stored: dict[SecretRef, list[_Stored]] = {}

    async def fingerprint(self, organization_id: str, key: ApiKey) -> str:
        self._record(Call("fingerprint"))
        message = f"{len(organization_id)}:{organization_id}{key.reveal()}".encode()
        return f"v1:{hmac.digest(self.FINGERPRINT_KEY, message, hashlib.sha256).hex()}"

    async def current_version(self, ref: SecretRef) -> int:
        self._record(Call("current_version", ref))
        return len(self._versions(ref))

    async def write(
        self, ref: SecretRef, secret: ApiKey | SigningSecret, *, intent_id: UUID, expected_version: int
    ) -> int:
        version = expected_version + 1
        self._record(Call("write", ref, version, intent_id))
        if len(self._versions(ref)) == expected_version:
            self._versions(ref).append(_Stored(intent_id, secret))
            return version
        found = self._version(ref, version)
        if found and found.key and found.intent_id == intent_id:
            return version
        raise CasMismatch

    async def tombstone(self, ref: SecretRef, *, intent_id: UUID, expected_version: int) -> bool:
        version = expected_version + 1
        self._record(Call("tombstone", ref, version, intent_id))
        if len(self._versions(ref)) == expected_version:
            self._versions(ref).append(_Stored(None, None))
        found = self._version(ref, version)
        return found is not None and found.intent_id is None

    async def intent_at(self, ref: SecretRef, store_version: int) -> UUID | None:
        self._record(Call("intent_at", ref, store_version))
        found = self._version(ref, store_version)
        return found.intent_id if found and found.key else None

    async def read(self, ref: SecretRef, store_version: int) -> ApiKey:
        self._record(Call("read", ref, store_version))
        found = self._version(ref, store_version)
        if found is None or found.key is None:
            raise SecretMissing
        assert isinstance(found.key, ApiKey)
        return found.key

    async def read_signing_secret(self, ref: SecretRef, store_version: int) -> SigningSecret:
        self._record(Call("read_signing_secret", ref, store_version))
        found = self._version(ref, store_version)
        if found is None or found.key is None:
            raise SecretMissing
        assert isinstance(found.key, SigningSecret)
        return found.key

    async def destroy(self, ref: SecretRef, *store_versions: int) -> None:
        for version in store_versions:
            self._record(Call("destroy", ref, version))
            if found := self._version(ref, version):
                found.key = None

    async def destroy_all(self, ref: SecretRef) -> None:
        self._record(Call("destroy_all", ref))
        for stored in self._versions(ref):
            stored.key = None

    async def ping(self) -> None:
        self._record(Call("ping"))

    def _record(self, call: Call) -> None:
        self.calls.append(call)
        if self.unavailable:
            raise SecretStoreUnavailable

    def _versions(self, ref: SecretRef) -> list[_Stored]:
        return self._stored.setdefault(ref, [])

    def _version(self, ref: SecretRef, version: int) -> _Stored | None:
        return next(
            (stored for number, stored in enumerate(self._versions(ref), 1) if number == version), None
        )
