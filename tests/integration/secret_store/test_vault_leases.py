"""Leases in the Vault store: a key in a single-use token that the service itself never reads."""

from base64 import b64decode
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from app.secret_store.port import SecretCorrupt, SecretMissing, SecretRef
from app.secret_store.vault.responses import VaultReason, VaultUnavailable
from app.secret_store.vault.store import VaultSecretStore
from tests.support.credentials.sample_keys import write
from tests.support.vault.fake import ServedVault
from tests.support.vault.prepared import PreparedVault


@pytest.fixture
async def store(any_vault: PreparedVault) -> AsyncIterator[VaultSecretStore]:
    async with any_vault.store(await any_vault.logins()) as store:
        yield store


async def unwrap(vault: PreparedVault, token: str) -> str | None:
    """Unwrap the token like a consumer. Returns None if that is refused."""
    try:
        response = await vault.write("sys/wrapping/unwrap", token=token)
    except VaultUnavailable:
        return None
    return b64decode(response.data["plaintext"]).decode()


class TestWrapForLease:
    async def test_token_unwraps_once_to_the_key(
        self, store: VaultSecretStore, any_vault: PreparedVault, ref: SecretRef
    ) -> None:
        key = await write(store, ref)

        wrapped = await store.wrap_for_lease(ref, 1, 60)

        assert await unwrap(any_vault, wrapped.token) == key.reveal()
        assert await unwrap(any_vault, wrapped.token) is None

    async def test_returns_the_creation_path_that_the_consumer_checks(
        self, store: VaultSecretStore, any_vault: PreparedVault, ref: SecretRef
    ) -> None:
        await write(store, ref)

        wrapped = await store.wrap_for_lease(ref, 1, 60)

        assert wrapped.creation_path == (f"{any_vault.mounts.transit}/decrypt/org.{ref.organization_id}.key")

    async def test_repr_hides_the_token(self, store: VaultSecretStore, ref: SecretRef) -> None:
        await write(store, ref)

        wrapped = await store.wrap_for_lease(ref, 1, 60)

        assert wrapped.token not in repr(wrapped)

    async def test_of_a_destroyed_version_raises(self, store: VaultSecretStore, ref: SecretRef) -> None:
        await write(store, ref)
        await store.destroy(ref, 1)

        with pytest.raises(SecretMissing):
            await store.wrap_for_lease(ref, 1, 60)

    async def test_of_changed_ciphertext_raises(
        self, store: VaultSecretStore, any_vault: PreparedVault, ref: SecretRef
    ) -> None:
        await write(store, ref)
        await any_vault.put(
            f"orgs/{ref.organization_id}/creds/{ref.credential_id}",
            {"ct": "vault:v1:AAAA", "intent_id": str(uuid4())},
            cas=1,
        )

        with pytest.raises(SecretCorrupt):
            await store.wrap_for_lease(ref, 2, 60)

    async def test_refuses_an_unwrapped_plaintext(
        self, fake_vault: VaultSecretStore, served_vault: ServedVault, ref: SecretRef
    ) -> None:
        await write(fake_vault, ref)
        served_vault.fake.script_response("/decrypt/", 200, {"data": {"plaintext": "c2stYW50"}})

        with pytest.raises(VaultUnavailable) as refusal:
            await fake_vault.wrap_for_lease(ref, 1, 60)

        assert refusal.value.reason is VaultReason.UNEXPECTED


class TestRevokeWrapping:
    async def test_revokes_an_unopened_token(
        self, store: VaultSecretStore, any_vault: PreparedVault, ref: SecretRef
    ) -> None:
        await write(store, ref)
        wrapped = await store.wrap_for_lease(ref, 1, 60)

        await store.revoke_wrapping(wrapped.accessor)

        assert await unwrap(any_vault, wrapped.token) is None

    async def test_ignores_a_token_that_was_unwrapped(
        self, store: VaultSecretStore, any_vault: PreparedVault, ref: SecretRef
    ) -> None:
        await write(store, ref)
        wrapped = await store.wrap_for_lease(ref, 1, 60)
        await unwrap(any_vault, wrapped.token)

        for _ in range(2):
            await store.revoke_wrapping(wrapped.accessor)
