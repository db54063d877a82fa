"""Webhook signing secrets are stored like keys in every store, and separately from them."""

from dataclasses import replace
from uuid import uuid4

import pytest

from app.core.keys.signing_secret import SigningSecret
from app.secret_store.embedded.store import EmbeddedSecretStore
from app.secret_store.port import (
    CasMismatch,
    SecretCorrupt,
    SecretKind,
    SecretMissing,
    SecretRef,
    SecretStore,
)
from app.secret_store.vault.store import VaultSecretStore
from tests.support.credentials.sample_keys import write
from tests.support.vault.prepared import PreparedVault


@pytest.fixture
def signing(ref: SecretRef) -> SecretRef:
    return replace(ref, credential_id=uuid4(), kind=SecretKind.SIGNING_SECRET)


async def write_signing_secret(store: SecretStore, ref: SecretRef) -> SigningSecret:
    secret = SigningSecret.generate()
    assert await store.write(ref, secret, intent_id=uuid4(), expected_version=0) == 1
    return secret


class TestSigningSecret:
    async def test_reads_back_unchanged(self, store: SecretStore, signing: SecretRef) -> None:
        secret = await write_signing_secret(store, signing)

        assert await store.read_signing_secret(signing, 1) == secret

    async def test_is_missing_after_destroy_all(self, store: SecretStore, signing: SecretRef) -> None:
        await write_signing_secret(store, signing)

        await store.destroy_all(signing)

        with pytest.raises(SecretMissing):
            await store.read_signing_secret(signing, 1)

    async def test_is_refused_after_its_tombstone(self, store: SecretStore, signing: SecretRef) -> None:
        assert await store.tombstone(signing, intent_id=uuid4(), expected_version=0)

        with pytest.raises(CasMismatch):
            await write_signing_secret(store, signing)

    async def test_is_masked_in_every_text_form(self) -> None:
        secret = SigningSecret.generate()

        shown = f"{secret} {secret!r} {secret:>40}"

        assert secret.reveal().removeprefix(SigningSecret.PREFIX)[:8] not in shown
        with pytest.raises(TypeError):
            hash(secret)
        with pytest.raises(AttributeError):
            secret._text = "x"


class TestEmbedded:
    async def test_does_not_read_a_key_as_a_signing_secret(
        self, embedded: EmbeddedSecretStore, ref: SecretRef
    ) -> None:
        await write(embedded, ref)

        with pytest.raises(SecretCorrupt):
            await embedded.read_signing_secret(replace(ref, kind=SecretKind.SIGNING_SECRET), 1)


class TestVault:
    async def test_separates_it_from_a_key_with_the_same_id(
        self, any_vault: PreparedVault, ref: SecretRef
    ) -> None:
        signing = replace(ref, kind=SecretKind.SIGNING_SECRET)
        async with any_vault.store(await any_vault.logins()) as store:
            key = await write(store, ref)
            secret = await write_signing_secret(store, signing)

            assert await store.read(ref, 1) == key
            assert await store.read_signing_secret(signing, 1) == secret

    async def test_refuses_ciphertext_copied_between_the_paths(
        self, any_vault: PreparedVault, ref: SecretRef
    ) -> None:
        """An attacker who can write to KV gains nothing by copying ciphertext: it is bound to its purpose."""
        signing = replace(ref, kind=SecretKind.SIGNING_SECRET)
        organization_path = f"orgs/{ref.organization_id}"
        async with any_vault.store(await any_vault.logins()) as store:
            await write(store, ref)
            await write_signing_secret(store, signing)
            for source, target in (("creds", "webhooks"), ("webhooks", "creds")):
                content = await any_vault.get(f"{organization_path}/{source}/{ref.credential_id}", 1)
                await any_vault.write(
                    f"{any_vault.mounts.kv}/data/{organization_path}/{target}/{ref.credential_id}",
                    data=dict(content),
                    options={"cas": 1},
                )

            with pytest.raises(SecretCorrupt):
                await store.read(ref, 2)
            with pytest.raises(SecretCorrupt):
                await store.read_signing_secret(signing, 2)

    async def test_broker_cannot_read_it(
        self, real_vault: PreparedVault, vault: VaultSecretStore, ref: SecretRef
    ) -> None:
        """The broker's policy does not cover the path of signing secrets."""
        assert real_vault.mounts.kv
        signing = replace(ref, kind=SecretKind.SIGNING_SECRET)
        await write_signing_secret(vault, signing)

        with pytest.raises(Exception, match="secret store") as refused:
            await vault.wrap_for_lease(signing, 1, 60)

        assert getattr(refused.value, "code", None) == "secret_store_permission_denied"
