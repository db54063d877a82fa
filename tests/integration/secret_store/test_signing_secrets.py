"""Signing secrets of webhooks rest in every store as keys do, and apart from them."""

from dataclasses import replace
from uuid import uuid4

import pytest

from app.core.signing_secret import SigningSecret
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
from tests.integration.secret_store.keys import write
from tests.integration.secret_store.vaults import Prepared


@pytest.fixture
def signing(ref: SecretRef) -> SecretRef:
    return replace(ref, credential_id=uuid4(), kind=SecretKind.SIGNING_SECRET)


async def sealed(store: SecretStore, ref: SecretRef) -> SigningSecret:
    secret = SigningSecret.generate()
    assert await store.write(ref, secret, intent_id=uuid4(), expected_version=0) == 1
    return secret


class TestSigningSecret:
    async def test_comes_back_as_it_was(self, store: SecretStore, signing: SecretRef) -> None:
        secret = await sealed(store, signing)

        assert await store.read_signing_secret(signing, 1) == secret

    async def test_is_gone_after_a_purge(self, store: SecretStore, signing: SecretRef) -> None:
        await sealed(store, signing)

        await store.purge(signing)

        with pytest.raises(SecretMissing):
            await store.read_signing_secret(signing, 1)

    async def test_that_comes_after_its_tombstone_is_refused(
        self, store: SecretStore, signing: SecretRef
    ) -> None:
        assert await store.tombstone(signing, intent_id=uuid4(), expected_version=0)

        with pytest.raises(CasMismatch):
            await sealed(store, signing)

    async def test_shows_itself_in_no_text(self) -> None:
        secret = SigningSecret.generate()

        shown = f"{secret} {secret!r} {secret:>40}"

        assert secret.reveal().removeprefix(SigningSecret.PREFIX)[:8] not in shown
        with pytest.raises(TypeError):
            hash(secret)
        with pytest.raises(AttributeError):
            secret._shown = "x"


class TestEmbedded:
    async def test_opens_no_key_as_one(self, embedded: EmbeddedSecretStore, ref: SecretRef) -> None:
        await write(embedded, ref)

        with pytest.raises(SecretCorrupt):
            await embedded.read_signing_secret(replace(ref, kind=SecretKind.SIGNING_SECRET), 1)


class TestVault:
    async def test_keeps_it_apart_from_a_key_of_the_same_id(
        self, any_vault: Prepared, ref: SecretRef
    ) -> None:
        signing = replace(ref, kind=SecretKind.SIGNING_SECRET)
        async with any_vault.store(await any_vault.logins()) as store:
            key = await write(store, ref)
            secret = await sealed(store, signing)

            assert await store.read(ref, 1) == key
            assert await store.read_signing_secret(signing, 1) == secret

    async def test_opens_neither_in_the_place_of_the_other(self, any_vault: Prepared, ref: SecretRef) -> None:
        """Somebody who can write to KV moves ciphertexts about: each is bound to what it is for."""
        signing = replace(ref, kind=SecretKind.SIGNING_SECRET)
        folder = f"orgs/{ref.organization_id}"
        async with any_vault.store(await any_vault.logins()) as store:
            await write(store, ref)
            await sealed(store, signing)
            for taken, put in (("creds", "webhooks"), ("webhooks", "creds")):
                content = await any_vault.get(f"{folder}/{taken}/{ref.credential_id}", 1)
                await any_vault.write(
                    f"{any_vault.mounts.kv}/data/{folder}/{put}/{ref.credential_id}",
                    data=dict(content),
                    options={"cas": 1},
                )

            with pytest.raises(SecretCorrupt):
                await store.read(ref, 2)
            with pytest.raises(SecretCorrupt):
                await store.read_signing_secret(signing, 2)

    async def test_is_never_leased(self, prepared: Prepared, vault: VaultSecretStore, ref: SecretRef) -> None:
        """The broker's policy does not reach its folder."""
        assert prepared.mounts.kv
        signing = replace(ref, kind=SecretKind.SIGNING_SECRET)
        await sealed(vault, signing)

        with pytest.raises(Exception, match="secret store") as refused:
            await vault.wrap_for_lease(signing, 1, 60)

        assert getattr(refused.value, "code", None) == "secret_store_permission_denied"
