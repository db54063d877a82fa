"""A token verified once is remembered: no longer than its key is trusted."""

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from app.auth.authenticator import Authenticator
from tests.unit.services.auth_tokens import ED25519, Clock, Keys, authenticator_of, bearer, refusal


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authenticator(keys: Keys, clock: Clock) -> Authenticator:
    return authenticator_of(keys, clock)


class TestCache:
    async def test_verifies_a_token_once(self, authenticator: Authenticator, keys: Keys) -> None:
        token = bearer()

        first = await authenticator.authenticate(token)
        second = await authenticator.authenticate(token)

        assert first is second
        assert keys.asked == 1

    async def test_remembers_no_refused_token(self, authenticator: Authenticator, keys: Keys) -> None:
        token = bearer(kid="other")

        assert await refusal(authenticator, token) == "unknown_key"
        keys.trusted["other"] = ED25519.public_key()

        await authenticator.authenticate(token)

    async def test_forgets_the_least_recently_used(self, authenticator: Authenticator, keys: Keys) -> None:
        one, two, three, four = (bearer(sub=f"user_{n}") for n in range(4))
        for token in (one, two, three, one, four):
            await authenticator.authenticate(token)
        asked = keys.asked

        for token in (one, three, four):
            await authenticator.authenticate(token)
        assert keys.asked == asked
        await authenticator.authenticate(two)
        assert keys.asked == asked + 1

    async def test_keeps_no_token_only_its_hash(self, authenticator: Authenticator) -> None:
        token = bearer()

        await authenticator.authenticate(token)

        assert list(authenticator._cache) == [hashlib.sha256(token.split()[1].encode()).digest()]
        assert token.rsplit(".", 1)[1] not in repr(authenticator._cache)

    async def test_ends_tokens_whose_key_is_no_longer_trusted(
        self, authenticator: Authenticator, keys: Keys
    ) -> None:
        token = bearer()
        await authenticator.authenticate(token)

        keys.trusted, keys.generation = {}, 2

        assert await refusal(authenticator, token) == "unknown_key"
        assert not authenticator._cache

    async def test_ends_tokens_when_another_key_takes_the_name(
        self, authenticator: Authenticator, keys: Keys
    ) -> None:
        token = bearer()
        await authenticator.authenticate(token)

        keys.trusted["ed"] = ed25519.Ed25519PrivateKey.generate().public_key()
        keys.generation = 2

        assert await refusal(authenticator, token) == "bad_signature"

    async def test_keeps_tokens_over_a_rotation_that_leaves_their_key(
        self, authenticator: Authenticator, keys: Keys
    ) -> None:
        token = bearer()
        await authenticator.authenticate(token)

        keys.generation = 2
        await authenticator.authenticate(token)
        await authenticator.authenticate(token)

        assert keys.asked == 2

    async def test_trusts_no_memory_while_the_keys_must_be_looked_at(
        self, authenticator: Authenticator, keys: Keys
    ) -> None:
        keys.generation = None
        token = bearer()

        await authenticator.authenticate(token)
        await authenticator.authenticate(token)

        assert keys.asked == 2
