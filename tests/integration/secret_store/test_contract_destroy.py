"""The contract of every secret store, part 2: destruction, fingerprints and outages."""

import re
from collections.abc import Awaitable, Callable
from uuid import UUID, uuid4

import pytest

from app.core.errors import SecretStoreUnavailable
from app.core.keys.api_key import ApiKey
from app.secret_store.port import CasMismatch, SecretMissing, SecretRef, SecretStore
from tests.support.credentials.sample_keys import make_key, write


class TestDestroy:
    async def test_removes_the_key_and_keeps_the_version_taken(
        self, store: SecretStore, ref: SecretRef
    ) -> None:
        await write(store, ref)

        await store.destroy(ref, 1)

        assert await store.current_version(ref) == 1
        assert await store.intent_at(ref, 1) is None
        with pytest.raises(SecretMissing):
            await store.read(ref, 1)

    async def test_keeps_other_versions(self, store: SecretStore, ref: SecretRef) -> None:
        for expected_version in range(3):
            key = await write(store, ref, expected_version=expected_version)

        await store.destroy(ref, 1, 2)

        assert await store.read(ref, 3) == key
        for version in (1, 2):
            with pytest.raises(SecretMissing):
                await store.read(ref, version)

    async def test_ignores_versions_without_a_secret(self, store: SecretStore, ref: SecretRef) -> None:
        await write(store, ref)
        await store.tombstone(ref, intent_id=uuid4(), expected_version=1)

        for _ in range(2):
            await store.destroy(ref, 1, 2, 9)
        await store.destroy(ref)

        assert await store.current_version(ref) == 2

    async def test_does_not_free_the_version(self, store: SecretStore, ref: SecretRef) -> None:
        await write(store, ref)
        await store.destroy(ref, 1)

        with pytest.raises(CasMismatch):
            await write(store, ref)
        await write(store, ref, expected_version=1)


class TestDestroyAll:
    async def test_destroys_every_version_and_keeps_them_taken(
        self, store: SecretStore, ref: SecretRef
    ) -> None:
        for expected_version in range(3):
            await write(store, ref, expected_version=expected_version)

        await store.destroy_all(ref)

        assert await store.current_version(ref) == 3
        for version in (1, 2, 3):
            with pytest.raises(SecretMissing):
                await store.read(ref, version)

    async def test_makes_a_late_write_fail(self, store: SecretStore, ref: SecretRef) -> None:
        intent_id = uuid4()
        await store.write(ref, make_key(), intent_id=intent_id, expected_version=0)
        await store.destroy_all(ref)

        with pytest.raises(CasMismatch):
            await store.write(ref, make_key(), intent_id=intent_id, expected_version=0)

    async def test_ignores_versions_without_a_secret(self, store: SecretStore, ref: SecretRef) -> None:
        await store.destroy_all(ref)
        await write(store, ref)
        await store.destroy_all(ref)
        await store.destroy_all(ref)

        assert await store.current_version(ref) == 1


class TestFingerprint:
    async def test_is_the_same_for_the_same_key(self, store: SecretStore) -> None:
        key = make_key()

        fingerprint = await store.fingerprint("org_a", key)

        assert re.fullmatch(r"v1:[0-9a-f]{64}", fingerprint)
        assert await store.fingerprint("org_a", key) == fingerprint

    async def test_differs_between_keys_and_between_organizations(self, store: SecretStore) -> None:
        key = make_key()

        fingerprints = {
            await store.fingerprint("org_a", key),
            await store.fingerprint("org_a", make_key()),
            await store.fingerprint("org_b", key),
        }

        assert len(fingerprints) == 3

    async def test_separates_the_organization_from_the_key(self, store: SecretStore) -> None:
        assert await store.fingerprint("org", ApiKey("Xkey")) != await store.fingerprint(
            "orgX", ApiKey("key")
        )


class TestAvailability:
    async def test_ping_succeeds(self, store: SecretStore) -> None:
        await store.ping()

    @pytest.mark.parametrize(
        "call",
        [
            pytest.param(lambda store, ref: store.current_version(ref), id="current_version"),
            pytest.param(
                lambda store, ref: store.write(ref, make_key(), intent_id=UUID(int=1), expected_version=0),
                id="write",
            ),
            pytest.param(
                lambda store, ref: store.tombstone(ref, intent_id=UUID(int=1), expected_version=0),
                id="tombstone",
            ),
            pytest.param(lambda store, ref: store.intent_at(ref, 1), id="intent_at"),
            pytest.param(lambda store, ref: store.read(ref, 1), id="read"),
            pytest.param(lambda store, ref: store.destroy(ref, 1), id="destroy"),
            pytest.param(lambda store, ref: store.destroy_all(ref), id="destroy_all"),
            pytest.param(lambda store, _ref: store.ping(), id="ping"),
        ],
    )
    async def test_every_call_fails_while_unreachable(
        self,
        unreachable_store: SecretStore,
        ref: SecretRef,
        call: Callable[[SecretStore, SecretRef], Awaitable[object]],
    ) -> None:
        with pytest.raises(SecretStoreUnavailable) as refusal:
            await call(unreachable_store, ref)

        assert refusal.value.__cause__ is None
        assert refusal.value.__context__ is None
