"""Leases: a key handed over in a token that opens once, without passing through us."""

from base64 import b64decode
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from app.secret_store.port import SecretCorrupt, SecretMissing, SecretRef
from app.secret_store.vault.responses import VaultReason, VaultUnavailable
from app.secret_store.vault.store import VaultSecretStore
from tests.fake_vault import ServedVault
from tests.integration.secret_store.keys import write
from tests.integration.secret_store.vaults import Prepared


@pytest.fixture
async def store(any_vault: Prepared) -> AsyncIterator[VaultSecretStore]:
    async with any_vault.store(await any_vault.logins()) as store:
        yield store


async def unwrap(vault: Prepared, token: str) -> str | None:
    """As the consumer does; None where the token does not open."""
    try:
        answer = await vault.write("sys/wrapping/unwrap", token=token)
    except VaultUnavailable:
        return None
    return b64decode(answer.data["plaintext"]).decode()


class TestWrapForLease:
    async def test_opens_once_to_the_key(
        self, store: VaultSecretStore, any_vault: Prepared, ref: SecretRef
    ) -> None:
        key = await write(store, ref)

        wrapped = await store.wrap_for_lease(ref, 1, 60)

        assert await unwrap(any_vault, wrapped.token) == key.reveal()
        assert await unwrap(any_vault, wrapped.token) is None

    async def test_names_the_path_that_the_consumer_checks(
        self, store: VaultSecretStore, any_vault: Prepared, ref: SecretRef
    ) -> None:
        await write(store, ref)

        wrapped = await store.wrap_for_lease(ref, 1, 60)

        assert wrapped.creation_path == (f"{any_vault.mounts.transit}/decrypt/org.{ref.organization_id}.key")

    async def test_shows_no_token(self, store: VaultSecretStore, ref: SecretRef) -> None:
        await write(store, ref)

        wrapped = await store.wrap_for_lease(ref, 1, 60)

        assert wrapped.token not in repr(wrapped)

    async def test_of_what_is_gone_says_so(self, store: VaultSecretStore, ref: SecretRef) -> None:
        await write(store, ref)
        await store.destroy(ref, 1)

        with pytest.raises(SecretMissing):
            await store.wrap_for_lease(ref, 1, 60)

    async def test_of_what_was_changed_says_so(
        self, store: VaultSecretStore, any_vault: Prepared, ref: SecretRef
    ) -> None:
        await write(store, ref)
        await any_vault.put(
            f"orgs/{ref.organization_id}/creds/{ref.credential_id}",
            {"ct": "vault:v1:AAAA", "intent_id": str(uuid4())},
            cas=1,
        )

        with pytest.raises(SecretCorrupt):
            await store.wrap_for_lease(ref, 2, 60)

    async def test_refuses_a_plaintext_that_was_not_wrapped(
        self, fake_vault: VaultSecretStore, served_vault: ServedVault, ref: SecretRef
    ) -> None:
        await write(fake_vault, ref)
        served_vault.fake.answer("/decrypt/", 200, {"data": {"plaintext": "c2stYW50"}})

        with pytest.raises(VaultUnavailable) as refusal:
            await fake_vault.wrap_for_lease(ref, 1, 60)

        assert refusal.value.reason is VaultReason.UNEXPECTED


class TestRevokeWrapping:
    async def test_bars_a_token_not_yet_opened(
        self, store: VaultSecretStore, any_vault: Prepared, ref: SecretRef
    ) -> None:
        await write(store, ref)
        wrapped = await store.wrap_for_lease(ref, 1, 60)

        await store.revoke_wrapping(wrapped.accessor)

        assert await unwrap(any_vault, wrapped.token) is None

    async def test_of_a_token_that_is_gone_is_no_error(
        self, store: VaultSecretStore, any_vault: Prepared, ref: SecretRef
    ) -> None:
        await write(store, ref)
        wrapped = await store.wrap_for_lease(ref, 1, 60)
        await unwrap(any_vault, wrapped.token)

        for _ in range(2):
            await store.revoke_wrapping(wrapped.accessor)
