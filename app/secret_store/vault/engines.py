"""The requests to the two Vault engines that the store uses: KV v2 for ciphertext, transit for encryption."""

import asyncio
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from app.secret_store.encoding import length_prefixed
from app.secret_store.port import SecretCorrupt, SecretKind, SecretRef
from app.secret_store.vault.client import VaultRequest
from app.secret_store.vault.responses import (
    VaultReason,
    VaultResponse,
    VaultUnavailable,
    expect_success,
    text_field,
)
from app.secret_store.vault.roles import VaultRole, VaultSessions

FINGERPRINT_KEY = "fingerprint"
PING_KEY = "ping"
ORGANIZATION_KEY_TYPE = "aes256-gcm96"
KEPT_VERSIONS = 100

# By kind: the path segment in KV, and the purpose that the ciphertext is bound to.
_PATH_SEGMENTS = {SecretKind.PROVIDER_KEY: "creds", SecretKind.SIGNING_SECRET: "webhooks"}
_PURPOSES = {SecretKind.PROVIDER_KEY: b"provider key", SecretKind.SIGNING_SECRET: b"signing secret"}
# OpenBao's standbys serve reads with some lag, so a bare 404 is requested again after these pauses, in seconds.
_LAG_PAUSES = (0.05, 0.15, 0.3)
# A lagging list of versions may lack the latest numbers, so this many numbers after the last one are destroyed too.
_UNLISTED_VERSIONS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultMounts:
    """Where the two engines are mounted."""

    kv: str = "byok"
    transit: str = "byok-transit"


class KvEngine:
    """KV v2: numbered versions of small mappings.

    Their paths are `orgs/<organization>/creds/<credential>` and `orgs/<organization>/webhooks/<endpoint>`.
    """

    def __init__(self, sessions: VaultSessions, mount: str) -> None:
        self._sessions = sessions
        self._mount = mount

    async def put(
        self, role: VaultRole, ref: SecretRef, content: Mapping[str, str], *, expected_version: int
    ) -> bool:
        """Write `content` as version `expected_version + 1`. Returns False if KV is at another version."""
        response = await self._sessions[role].call(
            lambda vault: vault.secrets.kv.v2.create_or_update_secret(
                _path(ref), dict(content), cas=expected_version, mount_point=self._mount
            )
        )
        if response.is_cas_mismatch:
            return False
        expect_success(response)
        return True

    async def read_version(self, role: VaultRole, ref: SecretRef, version: int) -> Mapping[str, Any] | None:
        """Return the content of a version, or None if it was destroyed or never written."""
        if version < 1:  # Vault would return the latest version
            return None
        response = await self._read(
            role,
            lambda vault: vault.secrets.kv.v2.read_secret_version(
                _path(ref), version=version, mount_point=self._mount, raise_on_deleted_version=False
            ),
        )
        content = response.data.get("data")
        return content if isinstance(content, Mapping) else None

    async def current_version(self, role: VaultRole, ref: SecretRef) -> int:
        return int((await self._metadata(role, ref)).get("current_version", 0))

    async def destroy(self, ref: SecretRef, versions: Iterable[int]) -> None:
        numbers = sorted(number for number in versions if number > 0)
        if not numbers:
            return
        response = await self._sessions[VaultRole.SWEEPER].call(
            lambda vault: vault.secrets.kv.v2.destroy_secret_versions(
                _path(ref), numbers, mount_point=self._mount
            )
        )
        expect_success(response, HTTPStatus.NOT_FOUND)

    async def destroy_all(self, ref: SecretRef) -> None:
        metadata = await self._metadata(VaultRole.SWEEPER, ref)
        last = int(metadata.get("current_version", 0))
        listed = {int(number) for number in metadata.get("versions", {})}
        await self.destroy(ref, listed.union(range(last + 1, last + 1 + _UNLISTED_VERSIONS)))

    async def check(self) -> None:
        """Raise VaultUnavailable unless the mount responds and keeps enough versions."""
        response = expect_success(
            await self._sessions[VaultRole.WRITER].call(
                lambda vault: vault.secrets.kv.v2.read_configuration(mount_point=self._mount)
            )
        )
        # With fewer versions, a rotation would silently push out a key that is kept.
        if response.data.get("max_versions", 0) < KEPT_VERSIONS:
            raise VaultUnavailable(VaultReason.NOT_SET_UP)

    async def _metadata(self, role: VaultRole, ref: SecretRef) -> Mapping[str, Any]:
        response = await self._read(
            role,
            lambda vault: vault.secrets.kv.v2.read_secret_metadata(_path(ref), mount_point=self._mount),
        )
        return response.data

    async def _read(self, role: VaultRole, request: VaultRequest) -> VaultResponse:
        response = await self._sessions[role].call(request)
        for pause in _LAG_PAUSES:
            # For a destroyed version Vault responds with 404 too, but with its metadata.
            if response.status != HTTPStatus.NOT_FOUND or response.data:
                break
            await asyncio.sleep(pause)
            response = await self._sessions[role].call(request)
        return expect_success(response, HTTPStatus.NOT_FOUND)


class TransitEngine:
    """Transit: encrypts with a separate key for each organization, which never leaves Vault."""

    def __init__(self, sessions: VaultSessions, mount: str) -> None:
        self._sessions = sessions
        self._mount = mount

    async def encrypt(self, ref: SecretRef, plaintext: bytes) -> str:
        """Return the ciphertext. Creates the organization's transit key if it does not exist."""
        key, context = _key_of(ref), _context(ref)
        encryption = self._request("encrypt", key, plaintext=_base64(plaintext), context=context)
        response = await self._sessions[VaultRole.WRITER].call(encryption)
        # Vault treats encryption with a missing key as its creation, which the writer may not do.
        if response.is_denied or response.is_missing_key:
            creation = self._request("keys", key, type=ORGANIZATION_KEY_TYPE, derived=True)
            expect_success(await self._sessions[VaultRole.PROVISIONER].call(creation))
            response = await self._sessions[VaultRole.WRITER].call(encryption)
        return text_field(expect_success(response), "ciphertext")

    async def decrypt(self, ref: SecretRef, ciphertext: str) -> bytes:
        """Return the plaintext. Raises SecretCorrupt."""
        response = await self._call_with_ciphertext(VaultRole.PROBER, "decrypt", ref, ciphertext)
        return b64decode(text_field(response, "plaintext"))

    async def decrypt_wrapped(self, ref: SecretRef, ciphertext: str, ttl_seconds: int) -> Mapping[str, str]:
        """Return token, accessor and creation path of the wrapped plaintext. Raises SecretCorrupt."""
        response = await self._call_with_ciphertext(
            VaultRole.BROKER, "decrypt", ref, ciphertext, wrap_ttl=f"{ttl_seconds}s"
        )
        if not {"token", "accessor", "creation_path"} <= response.wrap_info.keys():
            raise VaultUnavailable(VaultReason.UNEXPECTED)  # a proxy has removed the wrapping header
        return response.wrap_info

    async def revoke_wrapped(self, accessor: str) -> None:
        response = await self._sessions[VaultRole.BROKER].call(
            lambda vault: vault.auth.token.revoke_accessor(accessor)
        )
        # For a token that was unwrapped or has expired, servers respond with one of these.
        expect_success(response, HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND)

    async def rewrap(self, ref: SecretRef, ciphertext: str) -> str:
        """Return the ciphertext under the newest version of the transit key. Raises SecretCorrupt."""
        response = await self._call_with_ciphertext(VaultRole.SWEEPER, "rewrap", ref, ciphertext)
        return text_field(response, "ciphertext")

    async def rotate(self, organization_id: str) -> None:
        rotation = self._request("keys", f"{_key_name(organization_id)}/rotate")
        expect_success(await self._sessions[VaultRole.PROVISIONER].call(rotation))

    async def fingerprint(self, *parts: bytes) -> str:
        """Return `v1:<hex>`, where 1 is the version of the fingerprint key."""
        request = self._request(
            "hmac", FINGERPRINT_KEY, input=_base64(length_prefixed(*parts)), algorithm="sha2-256"
        )
        response = expect_success(await self._sessions[VaultRole.WRITER].call(request))
        _, version, digest = text_field(response, "hmac").split(":")
        return f"{version}:{b64decode(digest).hex()}"

    async def check(self) -> None:
        """Raise VaultUnavailable unless transit encrypts and decrypts."""
        encryption = self._request("encrypt", PING_KEY, plaintext=_base64(b"ping"))
        encrypted = expect_success(await self._sessions[VaultRole.WRITER].call(encryption))
        decryption = self._request("decrypt", PING_KEY, ciphertext=text_field(encrypted, "ciphertext"))
        expect_success(await self._sessions[VaultRole.PROBER].call(decryption))

    async def _call_with_ciphertext(
        self, role: VaultRole, operation: str, ref: SecretRef, ciphertext: str, *, wrap_ttl: str | None = None
    ) -> VaultResponse:
        request = self._request(
            operation, _key_of(ref), wrap_ttl, ciphertext=ciphertext, context=_context(ref)
        )
        response = await self._sessions[role].call(request)
        if response.status == HTTPStatus.BAD_REQUEST:
            raise SecretCorrupt
        return expect_success(response)

    def _request(
        self, operation: str, key: str, wrap_ttl: str | None = None, /, **data: object
    ) -> VaultRequest:
        # hvac's own method for decryption cannot wrap.
        path = f"{self._mount}/{operation}/{key}"
        return lambda vault: vault.write_data(path, data=data, wrap_ttl=wrap_ttl)


def _path(ref: SecretRef) -> str:
    return f"orgs/{ref.organization_id}/{_PATH_SEGMENTS[ref.kind]}/{ref.credential_id}"


def _key_of(ref: SecretRef) -> str:
    return _key_name(ref.organization_id)


def _key_name(organization_id: str) -> str:
    # Names in Vault must end in a letter or digit, but organization ids may end in a hyphen.
    return f"org.{organization_id}.key"


def _context(ref: SecretRef) -> str:
    """What the ciphertext is bound to: it cannot be decrypted with another context."""
    return _base64(
        length_prefixed(ref.organization_id.encode(), ref.credential_id.bytes, _PURPOSES[ref.kind])
    )


def _base64(content: bytes) -> str:
    return b64encode(content).decode()
