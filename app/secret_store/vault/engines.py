"""The two engines of Vault that we use, call by call: KV v2 keeps versions, transit seals."""

import asyncio
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from app.secret_store.encoding import length_prefixed
from app.secret_store.port import SecretCorrupt, SecretKind, SecretRef
from app.secret_store.vault.client import Question
from app.secret_store.vault.responses import Answer, VaultReason, VaultUnavailable, expect, part
from app.secret_store.vault.roles import VaultRole, VaultSessions

FINGERPRINT_KEY = "fingerprint"
PING_KEY = "ping"
ORGANIZATION_KEY_TYPE = "aes256-gcm96"
KEPT_VERSIONS = 100

# Of each kind: where it lies, and what its ciphertext is bound to.
_FOLDERS = {SecretKind.PROVIDER_KEY: "creds", SecretKind.SIGNING_SECRET: "webhooks"}
_PURPOSES = {SecretKind.PROVIDER_KEY: b"provider key", SecretKind.SIGNING_SECRET: b"signing secret"}
# OpenBao's standbys answer reads, a little late: a bare 404 is asked again.
_LAG_PAUSES = (0.05, 0.15, 0.3)
# ... and their list of versions may lack the latest.
_NUMBERS_AHEAD = 8


class Versions:
    """KV v2: numbered versions of small mappings, at `orgs/<organization>/creds/<credential>` and `.../webhooks/<endpoint>`."""

    def __init__(self, sessions: VaultSessions, mount: str) -> None:
        self._sessions = sessions
        self._mount = mount

    async def put(
        self, role: VaultRole, ref: SecretRef, content: Mapping[str, str], *, expected_version: int
    ) -> bool:
        """Make `content` version `expected_version + 1`; False where the store is at another version."""
        answer = await self._sessions[role].call(
            lambda vault: vault.secrets.kv.v2.create_or_update_secret(
                _path(ref), dict(content), cas=expected_version, mount_point=self._mount
            )
        )
        if answer.is_cas_mismatch:
            return False
        expect(answer)
        return True

    async def at(self, role: VaultRole, ref: SecretRef, version: int) -> Mapping[str, Any] | None:
        """What a version holds; None for destroyed ones and those never written."""
        if version < 1:  # Vault would give the latest
            return None
        answer = await self._read(
            role,
            lambda vault: vault.secrets.kv.v2.read_secret_version(
                _path(ref), version=version, mount_point=self._mount, raise_on_deleted_version=False
            ),
        )
        content = answer.data.get("data")
        return content if isinstance(content, Mapping) else None

    async def last(self, role: VaultRole, ref: SecretRef) -> int:
        return int((await self._metadata(role, ref)).get("current_version", 0))

    async def destroy(self, ref: SecretRef, versions: Iterable[int]) -> None:
        numbers = sorted(number for number in versions if number > 0)
        if not numbers:
            return
        answer = await self._sessions[VaultRole.SWEEPER].call(
            lambda vault: vault.secrets.kv.v2.destroy_secret_versions(
                _path(ref), numbers, mount_point=self._mount
            )
        )
        expect(answer, HTTPStatus.NOT_FOUND)

    async def destroy_all(self, ref: SecretRef) -> None:
        metadata = await self._metadata(VaultRole.SWEEPER, ref)
        last = int(metadata.get("current_version", 0))
        kept = {int(number) for number in metadata.get("versions", {})}
        await self.destroy(ref, kept.union(range(last + 1, last + 1 + _NUMBERS_AHEAD)))

    async def check(self) -> None:
        """Raise VaultUnavailable unless the mount answers and keeps as many versions as we need."""
        answer = expect(
            await self._sessions[VaultRole.WRITER].call(
                lambda vault: vault.secrets.kv.v2.read_configuration(mount_point=self._mount)
            )
        )
        # With fewer, a rotation would silently push a key out.
        if answer.data.get("max_versions", 0) < KEPT_VERSIONS:
            raise VaultUnavailable(VaultReason.NOT_SET_UP)

    async def _metadata(self, role: VaultRole, ref: SecretRef) -> Mapping[str, Any]:
        answer = await self._read(
            role,
            lambda vault: vault.secrets.kv.v2.read_secret_metadata(_path(ref), mount_point=self._mount),
        )
        return answer.data

    async def _read(self, role: VaultRole, question: Question) -> Answer:
        answer = await self._sessions[role].call(question)
        for pause in _LAG_PAUSES:
            # A version that was destroyed answers 404 too, with its metadata.
            if answer.status != HTTPStatus.NOT_FOUND or answer.data:
                break
            await asyncio.sleep(pause)
            answer = await self._sessions[role].call(question)
        return expect(answer, HTTPStatus.NOT_FOUND)


class Transit:
    """Transit: seals with a key for each organization, which never leaves Vault."""

    def __init__(self, sessions: VaultSessions, mount: str) -> None:
        self._sessions = sessions
        self._mount = mount

    async def encrypt(self, ref: SecretRef, plaintext: bytes) -> str:
        """Ciphertext. The organization's key is made if this is its first."""
        key, context = _key_of(ref), _context(ref)
        question = self._do("encrypt", key, plaintext=_base64(plaintext), context=context)
        answer = await self._sessions[VaultRole.WRITER].call(question)
        # To encrypt with a key that is not there counts as creating it, which the writer may not.
        if answer.is_denied or answer.is_missing_key:
            making = self._do("keys", key, type=ORGANIZATION_KEY_TYPE, derived=True)
            expect(await self._sessions[VaultRole.PROVISIONER].call(making))
            answer = await self._sessions[VaultRole.WRITER].call(question)
        return part(expect(answer), "ciphertext")

    async def decrypt(self, ref: SecretRef, ciphertext: str) -> bytes:
        """Raises SecretCorrupt."""
        answer = await self._open(VaultRole.PROBER, "decrypt", ref, ciphertext)
        return b64decode(part(answer, "plaintext"))

    async def decrypt_wrapped(self, ref: SecretRef, ciphertext: str, ttl_seconds: int) -> Mapping[str, str]:
        """Token, accessor and creation path of a wrapped plaintext. Raises SecretCorrupt."""
        answer = await self._open(VaultRole.BROKER, "decrypt", ref, ciphertext, wrap_ttl=f"{ttl_seconds}s")
        if not {"token", "accessor", "creation_path"} <= answer.wrap_info.keys():
            raise VaultUnavailable(VaultReason.UNEXPECTED)  # something on the way took the header off
        return answer.wrap_info

    async def revoke_wrapped(self, accessor: str) -> None:
        answer = await self._sessions[VaultRole.BROKER].call(
            lambda vault: vault.auth.token.revoke_accessor(accessor)
        )
        # Opened or expired: Vault has forgotten it, and says so in different ways.
        expect(answer, HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND)

    async def rewrap(self, ref: SecretRef, ciphertext: str) -> str:
        """The same plaintext under the newest version of the key. Raises SecretCorrupt."""
        return part(await self._open(VaultRole.SWEEPER, "rewrap", ref, ciphertext), "ciphertext")

    async def rotate(self, organization_id: str) -> None:
        rotating = self._do("keys", f"{_key_name(organization_id)}/rotate")
        expect(await self._sessions[VaultRole.PROVISIONER].call(rotating))

    async def fingerprint(self, *parts: bytes) -> str:
        """`v1:<hex>`, where 1 is the version of the key."""
        question = self._do(
            "hmac", FINGERPRINT_KEY, input=_base64(length_prefixed(*parts)), algorithm="sha2-256"
        )
        answer = expect(await self._sessions[VaultRole.WRITER].call(question))
        _, version, digest = part(answer, "hmac").split(":")
        return f"{version}:{b64decode(digest).hex()}"

    async def check(self) -> None:
        """Raise VaultUnavailable unless transit seals and unseals."""
        sealing = self._do("encrypt", PING_KEY, plaintext=_base64(b"ping"))
        sealed = expect(await self._sessions[VaultRole.WRITER].call(sealing))
        unsealing = self._do("decrypt", PING_KEY, ciphertext=part(sealed, "ciphertext"))
        expect(await self._sessions[VaultRole.PROBER].call(unsealing))

    async def _open(
        self, role: VaultRole, operation: str, ref: SecretRef, ciphertext: str, *, wrap_ttl: str | None = None
    ) -> Answer:
        question = self._do(operation, _key_of(ref), wrap_ttl, ciphertext=ciphertext, context=_context(ref))
        answer = await self._sessions[role].call(question)
        if answer.status == HTTPStatus.BAD_REQUEST:
            raise SecretCorrupt
        return expect(answer)

    def _do(self, operation: str, key: str, wrap_ttl: str | None = None, /, **data: object) -> Question:
        # hvac's own method for decrypting cannot wrap.
        path = f"{self._mount}/{operation}/{key}"
        return lambda vault: vault.write_data(path, data=data, wrap_ttl=wrap_ttl)


def _path(ref: SecretRef) -> str:
    return f"orgs/{ref.organization_id}/{_FOLDERS[ref.kind]}/{ref.credential_id}"


def _key_of(ref: SecretRef) -> str:
    return _key_name(ref.organization_id)


def _key_name(organization_id: str) -> str:
    # Names end in a letter or digit in Vault; organizations may end in a hyphen.
    return f"org.{organization_id}.key"


def _context(ref: SecretRef) -> str:
    """What a ciphertext belongs to: it opens for nothing else."""
    return _base64(
        length_prefixed(ref.organization_id.encode(), ref.credential_id.bytes, _PURPOSES[ref.kind])
    )


def _base64(content: bytes) -> str:
    return b64encode(content).decode()
