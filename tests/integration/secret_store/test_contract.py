"""The contract of every secret store, part 1: versions, writes and tombstones. Runs over each adapter and the fake."""

import asyncio
from dataclasses import replace
from uuid import uuid4

import pytest

from app.core.keys.api_key import ApiKey
from app.core.keys.pasted_key import MAX_CUSTOM_LENGTH
from app.secret_store.port import CasMismatch, SecretMissing, SecretRef, SecretStore
from tests.support.credentials.sample_keys import make_key, write


class TestWrite:
    async def test_stores_a_key_that_reads_back_unchanged(self, store: SecretStore, ref: SecretRef) -> None:
        key = make_key()

        version = await store.write(ref, key, intent_id=uuid4(), expected_version=0)

        assert version == 1
        assert await store.read(ref, 1) == key

    async def test_stores_the_longest_key(self, store: SecretStore, ref: SecretRef) -> None:
        key = ApiKey.parse("eyJ" + "x" * (MAX_CUSTOM_LENGTH - 3), is_custom_endpoint=True)

        await store.write(ref, key, intent_id=uuid4(), expected_version=0)

        assert await store.read(ref, 1) == key
        assert (await store.fingerprint(ref.organization_id, key)).startswith("v1:")

    async def test_keeps_earlier_versions(self, store: SecretStore, ref: SecretRef) -> None:
        first = await write(store, ref)
        second = await write(store, ref, expected_version=1)

        assert await store.read(ref, 1) == first
        assert await store.read(ref, 2) == second
        assert await store.current_version(ref) == 2

    async def test_repeated_by_the_same_intent_changes_nothing(
        self, store: SecretStore, ref: SecretRef
    ) -> None:
        key, intent_id = make_key(), uuid4()
        await store.write(ref, key, intent_id=intent_id, expected_version=0)

        again = await store.write(ref, make_key(), intent_id=intent_id, expected_version=0)

        assert again == 1
        assert await store.read(ref, 1) == key
        assert await store.current_version(ref) == 1

    async def test_repeated_after_the_next_write_still_succeeds(
        self, store: SecretStore, ref: SecretRef
    ) -> None:
        intent_id = uuid4()
        await store.write(ref, make_key(), intent_id=intent_id, expected_version=0)
        await write(store, ref, expected_version=1)

        assert await store.write(ref, make_key(), intent_id=intent_id, expected_version=0) == 1

    @pytest.mark.parametrize("expected_version", [0, 2, 7])
    async def test_with_another_expected_version_is_refused(
        self, store: SecretStore, ref: SecretRef, expected_version: int
    ) -> None:
        key = await write(store, ref)

        with pytest.raises(CasMismatch):
            await write(store, ref, expected_version=expected_version)

        assert await store.current_version(ref) == 1
        assert await store.read(ref, 1) == key

    async def test_repeated_after_its_version_was_destroyed_is_refused(
        self, store: SecretStore, ref: SecretRef
    ) -> None:
        intent_id = uuid4()
        await store.write(ref, make_key(), intent_id=intent_id, expected_version=0)
        await store.destroy(ref, 1)

        with pytest.raises(CasMismatch):
            await store.write(ref, make_key(), intent_id=intent_id, expected_version=0)

    async def test_concurrent_by_many_intents_succeeds_once(self, store: SecretStore, ref: SecretRef) -> None:
        await write(store, ref)
        intents = [uuid4() for _ in range(16)]

        results = await asyncio.gather(
            *(store.write(ref, make_key(), intent_id=intent, expected_version=1) for intent in intents),
            return_exceptions=True,
        )

        (winner,) = [intent for intent, result in zip(intents, results, strict=True) if result == 2]
        assert sum(isinstance(result, CasMismatch) for result in results) == 15
        assert await store.intent_at(ref, 2) == winner
        assert await store.current_version(ref) == 2

    async def test_concurrent_by_one_intent_writes_once(self, store: SecretStore, ref: SecretRef) -> None:
        key, intent_id = make_key(), uuid4()

        versions = await asyncio.gather(
            *(store.write(ref, key, intent_id=intent_id, expected_version=0) for _ in range(16))
        )

        assert set(versions) == {1}
        assert await store.current_version(ref) == 1


class TestVersions:
    async def test_do_not_exist_before_the_first_write(self, store: SecretStore, ref: SecretRef) -> None:
        assert await store.current_version(ref) == 0
        assert await store.intent_at(ref, 1) is None
        with pytest.raises(SecretMissing):
            await store.read(ref, 1)

    async def test_record_the_intent_that_wrote_them(self, store: SecretStore, ref: SecretRef) -> None:
        intent_id = uuid4()
        await store.write(ref, make_key(), intent_id=intent_id, expected_version=0)

        assert await store.intent_at(ref, 1) == intent_id
        assert await store.intent_at(ref, 2) is None

    async def test_are_separate_for_each_credential_and_organization(
        self, store: SecretStore, ref: SecretRef
    ) -> None:
        key = await write(store, ref)

        for other in (replace(ref, credential_id=uuid4()), replace(ref, organization_id="org_other")):
            assert await store.current_version(other) == 0
            assert await store.intent_at(other, 1) is None
            await store.destroy_all(other)
            with pytest.raises(SecretMissing):
                await store.read(other, 1)
        assert await store.read(ref, 1) == key


class TestTombstone:
    async def test_makes_a_late_write_fail(self, store: SecretStore, ref: SecretRef) -> None:
        intent_id = uuid4()

        assert await store.tombstone(ref, intent_id=intent_id, expected_version=0)

        with pytest.raises(CasMismatch):
            await store.write(ref, make_key(), intent_id=intent_id, expected_version=0)

    async def test_takes_a_version_without_a_secret(self, store: SecretStore, ref: SecretRef) -> None:
        await write(store, ref)
        await store.tombstone(ref, intent_id=uuid4(), expected_version=1)

        assert await store.current_version(ref) == 2
        assert await store.intent_at(ref, 2) is None
        with pytest.raises(SecretMissing):
            await store.read(ref, 2)

    async def test_is_followed_by_the_next_write(self, store: SecretStore, ref: SecretRef) -> None:
        await store.tombstone(ref, intent_id=uuid4(), expected_version=0)

        key = await write(store, ref, expected_version=1)

        assert await store.read(ref, 2) == key

    async def test_repeated_changes_nothing(self, store: SecretStore, ref: SecretRef) -> None:
        intent_id = uuid4()
        await store.tombstone(ref, intent_id=intent_id, expected_version=0)

        assert await store.tombstone(ref, intent_id=intent_id, expected_version=0)
        assert await store.current_version(ref) == 1

    async def test_returns_false_after_the_write(self, store: SecretStore, ref: SecretRef) -> None:
        key, intent_id = make_key(), uuid4()
        await store.write(ref, key, intent_id=intent_id, expected_version=0)

        assert not await store.tombstone(ref, intent_id=intent_id, expected_version=0)
        assert await store.read(ref, 1) == key

    async def test_does_not_skip_versions(self, store: SecretStore, ref: SecretRef) -> None:
        assert not await store.tombstone(ref, intent_id=uuid4(), expected_version=3)
        assert await store.current_version(ref) == 0

    async def test_concurrent_with_the_write_excludes_it(self, store: SecretStore, ref: SecretRef) -> None:
        for expected_version in range(8):
            intent_id = uuid4()

            written, is_tombstone = await asyncio.gather(
                store.write(ref, make_key(), intent_id=intent_id, expected_version=expected_version),
                store.tombstone(ref, intent_id=intent_id, expected_version=expected_version),
                return_exceptions=True,
            )

            assert is_tombstone is isinstance(written, CasMismatch)
            assert await store.intent_at(ref, expected_version + 1) == (None if is_tombstone else intent_id)
