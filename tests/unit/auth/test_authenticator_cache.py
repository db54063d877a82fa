"""The cache of verified tokens: a token stays in it only while its key is trusted."""

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from app.auth.authenticator import Authenticator
from tests.support.auth_tokens import ED25519, ISSUER, Clock, Keys, authenticator_of, bearer, refusal_reason


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
        assert keys.lookups == 1

    async def test_does_not_cache_a_rejected_token(self, authenticator: Authenticator, keys: Keys) -> None:
        token = bearer(kid="other")

        assert await refusal_reason(authenticator, token) == "unknown_key"
        keys.trusted["other"] = ED25519.public_key()

        await authenticator.authenticate(token)

    async def test_evicts_the_least_recently_used_token(
        self, authenticator: Authenticator, keys: Keys
    ) -> None:
        one, two, three, four = (bearer(sub=f"user_{n}") for n in range(4))
        for token in (one, two, three, one, four):
            await authenticator.authenticate(token)
        lookups = keys.lookups

        for token in (one, three, four):
            await authenticator.authenticate(token)
        assert keys.lookups == lookups
        await authenticator.authenticate(two)
        assert keys.lookups == lookups + 1

    async def test_stores_only_the_hash_of_a_token(self, authenticator: Authenticator) -> None:
        token = bearer()

        await authenticator.authenticate(token)

        assert list(authenticator._cache) == [hashlib.sha256(token.split()[1].encode()).digest()]
        assert token.rsplit(".", 1)[1] not in repr(authenticator._cache)

    async def test_rejects_a_cached_token_whose_key_is_no_longer_trusted(
        self, authenticator: Authenticator, keys: Keys
    ) -> None:
        token = bearer()
        await authenticator.authenticate(token)

        keys.trusted, keys.generation = {}, 2

        assert await refusal_reason(authenticator, token) == "unknown_key"
        assert not authenticator._cache

    async def test_rejects_a_cached_token_when_another_key_gets_the_key_id(
        self, authenticator: Authenticator, keys: Keys
    ) -> None:
        token = bearer()
        await authenticator.authenticate(token)

        keys.trusted["ed"] = ed25519.Ed25519PrivateKey.generate().public_key()
        keys.generation = 2

        assert await refusal_reason(authenticator, token) == "bad_signature"

    async def test_accepts_a_cached_token_after_a_rotation_that_keeps_its_key(
        self, authenticator: Authenticator, keys: Keys
    ) -> None:
        token = bearer()
        await authenticator.authenticate(token)

        keys.generation = 2
        await authenticator.authenticate(token)
        await authenticator.authenticate(token)

        assert keys.lookups == 2

    async def test_verifies_every_token_while_the_key_set_must_be_refreshed(
        self, authenticator: Authenticator, keys: Keys
    ) -> None:
        keys.generation = None
        token = bearer()

        await authenticator.authenticate(token)
        await authenticator.authenticate(token)

        assert keys.lookups == 2


class TestManyTokensOfOneOrganization:
    async def test_do_not_evict_those_of_others(self, keys: Keys, clock: Clock) -> None:
        authenticator = Authenticator(
            keys,
            issuer=ISSUER,
            audience="byok",
            cache_size=100,
            cache_size_per_organization=10,
            clock=clock,
        )
        victim = bearer(org="org_victim")
        await authenticator.authenticate(victim)
        tokens = [bearer(sub=f"user_{n}") for n in range(200)]
        for token in tokens:
            await authenticator.authenticate(token)
        lookups = keys.lookups

        await authenticator.authenticate(victim)
        await authenticator.authenticate(tokens[-1])

        assert keys.lookups == lookups
        assert len(authenticator._cache) == 11

    async def test_evict_the_least_recently_used_one(self, keys: Keys, clock: Clock) -> None:
        authenticator = Authenticator(
            keys, issuer=ISSUER, audience="byok", cache_size_per_organization=2, clock=clock
        )
        used, unused, third = (bearer(sub=f"user_{n}") for n in range(3))
        for token in (used, unused, used, third):
            await authenticator.authenticate(token)
        lookups = keys.lookups

        await authenticator.authenticate(used)
        assert keys.lookups == lookups
        await authenticator.authenticate(unused)
        assert keys.lookups == lookups + 1

    async def test_of_internal_services_are_not_limited(self, keys: Keys, clock: Clock) -> None:
        authenticator = Authenticator(
            keys, issuer=ISSUER, audience="byok", cache_size_per_organization=2, clock=clock
        )
        tokens = [bearer(sub=f"service_{n}", org="*") for n in range(10)]
        for token in tokens * 2:
            await authenticator.authenticate(token)

        assert keys.lookups == 10

    async def test_leave_nothing_behind_when_they_are_evicted(self, keys: Keys, clock: Clock) -> None:
        authenticator = authenticator_of(keys, clock)
        for n in range(50):
            await authenticator.authenticate(bearer(org=f"org_{n}"))

        assert len(authenticator._cache) == 3
        assert set(authenticator._digests) == {"org_47", "org_48", "org_49"}
