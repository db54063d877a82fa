"""The Vault store beyond the port's contract: what Vault holds, transit keys created on demand, rewrapping."""

from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import uuid4

import pytest

from app.secret_store.port import CasMismatch, SecretCorrupt, SecretMissing, SecretRef
from app.secret_store.vault.store import VaultSecretStore
from tests.support.credentials.sample_keys import make_key, write
from tests.support.vault.fake import ServedVault
from tests.support.vault.prepared import PreparedVault


@pytest.fixture
async def store(any_vault: PreparedVault) -> AsyncIterator[VaultSecretStore]:
    async with any_vault.store(await any_vault.logins()) as store:
        yield store


def path_of(ref: SecretRef) -> str:
    return f"orgs/{ref.organization_id}/creds/{ref.credential_id}"


class TestAtRest:
    async def test_holds_only_ciphertext_and_the_intent(
        self, store: VaultSecretStore, any_vault: PreparedVault, ref: SecretRef
    ) -> None:
        key, intent_id = make_key(), uuid4()

        await store.write(ref, key, intent_id=intent_id, expected_version=0)

        content = await any_vault.get(path_of(ref), 1)
        assert content.keys() == {"ct", "intent_id"}
        assert content["ct"].startswith("vault:v1:")
        assert content["intent_id"] == str(intent_id)

    async def test_is_refused_in_another_credential(
        self, store: VaultSecretStore, any_vault: PreparedVault, ref: SecretRef
    ) -> None:
        await write(store, ref)
        other = replace(ref, credential_id=uuid4())

        await any_vault.put(path_of(other), await any_vault.get(path_of(ref), 1), cas=0)

        with pytest.raises(SecretCorrupt):
            await store.read(other, 1)

    async def test_is_refused_in_another_organization(
        self, store: VaultSecretStore, any_vault: PreparedVault, ref: SecretRef
    ) -> None:
        await write(store, ref)
        other = replace(ref, organization_id=f"org_{uuid4().hex}")
        await write(store, other)

        await any_vault.put(path_of(other), await any_vault.get(path_of(ref), 1), cas=1)

        with pytest.raises(SecretCorrupt):
            await store.read(other, 2)

    @pytest.mark.parametrize("ciphertext", ["", "garbage", "vault:v1:", "vault:v9:AAAA", "vault:v1:AAAA"])
    async def test_is_refused_after_a_change(
        self, store: VaultSecretStore, any_vault: PreparedVault, ref: SecretRef, ciphertext: str
    ) -> None:
        await write(store, ref)

        await any_vault.put(path_of(ref), {"ct": ciphertext, "intent_id": str(uuid4())}, cas=1)

        with pytest.raises(SecretCorrupt):
            await store.read(ref, 2)

    async def test_keeps_more_versions_than_the_default_of_vault(
        self, store: VaultSecretStore, ref: SecretRef
    ) -> None:
        first = await write(store, ref)
        for expected_version in range(1, 13):
            await write(store, ref, expected_version=expected_version)

        assert await store.read(ref, 1) == first
        await store.destroy_all(ref)
        with pytest.raises(SecretMissing):
            await store.read(ref, 1)


class TestTransitKeys:
    @pytest.mark.parametrize("name", ["-", "a-", "-a", "_", "A_b-C", "9"])
    async def test_are_created_for_every_valid_organization_id(
        self, store: VaultSecretStore, name: str
    ) -> None:
        ref = SecretRef(organization_id=name, credential_id=uuid4())

        key = await write(store, ref)

        assert await store.read(ref, 1) == key

    async def test_are_created_once(self, prepared_fake: PreparedVault, served_vault: ServedVault) -> None:
        ref = SecretRef(organization_id="org_acme", credential_id=uuid4())
        async with prepared_fake.store() as store:
            await write(store, ref)
            await write(store, ref, expected_version=1)

        assert len(served_vault.fake.requested_paths("keys/org.org_acme.key")) == 1

    async def test_can_be_rotated(
        self, store: VaultSecretStore, any_vault: PreparedVault, ref: SecretRef
    ) -> None:
        old = await write(store, ref)
        await any_vault.write(f"{any_vault.mounts.transit}/keys/org.{ref.organization_id}.key/rotate")

        new = await write(store, ref, expected_version=1)

        assert await store.read(ref, 1) == old
        assert await store.read(ref, 2) == new

    async def test_fingerprints_show_the_key_version(
        self, store: VaultSecretStore, any_vault: PreparedVault
    ) -> None:
        key = make_key()
        before = await store.fingerprint("org_a", key)

        await any_vault.write(f"{any_vault.mounts.transit}/keys/fingerprint/rotate")

        after = await store.fingerprint("org_a", key)
        number = int(before.removeprefix("v").partition(":")[0])
        assert after.startswith(f"v{number + 1}:")


class TestRewrap:
    async def test_writes_the_same_key_as_the_next_version(
        self, store: VaultSecretStore, any_vault: PreparedVault, ref: SecretRef
    ) -> None:
        key, intent_id = await write(store, ref), uuid4()
        await any_vault.write(f"{any_vault.mounts.transit}/keys/org.{ref.organization_id}.key/rotate")

        version = await store.rewrap(ref, 1, intent_id=intent_id, expected_version=1)

        assert version == 2
        assert await store.read(ref, 2) == key
        assert await store.intent_at(ref, 2) == intent_id
        assert (await any_vault.get(path_of(ref), 2))["ct"].startswith("vault:v2:")

    async def test_skips_keys_under_the_newest_transit_key(
        self, store: VaultSecretStore, ref: SecretRef
    ) -> None:
        await write(store, ref)

        assert await store.rewrap(ref, 1, intent_id=uuid4(), expected_version=1) == 1
        assert await store.current_version(ref) == 1

    async def test_is_refused_after_another_write(
        self, store: VaultSecretStore, any_vault: PreparedVault, ref: SecretRef
    ) -> None:
        await write(store, ref)
        await any_vault.write(f"{any_vault.mounts.transit}/keys/org.{ref.organization_id}.key/rotate")
        await write(store, ref, expected_version=1)

        with pytest.raises(CasMismatch):
            await store.rewrap(ref, 1, intent_id=uuid4(), expected_version=1)

    async def test_of_a_missing_version_raises(self, store: VaultSecretStore, ref: SecretRef) -> None:
        with pytest.raises(SecretMissing):
            await store.rewrap(ref, 1, intent_id=uuid4(), expected_version=1)
