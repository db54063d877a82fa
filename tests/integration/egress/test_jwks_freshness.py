"""Freshness of the JWKS: refresh ahead, unknown key ids, outages of the issuer."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from app.auth.authenticator import Authenticator, TokenRefused
from app.core.errors import IdentityProviderUnavailable
from app.egress.http_client import http_client
from app.egress.jwks import OUTAGE_SECONDS, RETRY_SECONDS, UNKNOWN_KID_SECONDS, JwksClient
from tests.support.network.fake_issuer import Clock, FakeIssuer, jwk, running

LIFETIME = 600
MAX_STALE = 3600
OLD = ed25519.Ed25519PrivateKey.generate()
NEW = ed25519.Ed25519PrivateKey.generate()
OLD_JWK = jwk(OLD.public_key(), "old")
NEW_JWK = jwk(NEW.public_key(), "new")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def issuer() -> AsyncIterator[FakeIssuer]:
    async with running() as issuer:
        issuer.publish(OLD_JWK)
        yield issuer


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with http_client() as http:
        yield http


@pytest.fixture
async def keys(http: httpx.AsyncClient, issuer: FakeIssuer, clock: Clock) -> AsyncIterator[JwksClient]:
    keys = JwksClient(
        http,
        issuer.url,
        lifetime_seconds=LIFETIME,
        max_stale_seconds=MAX_STALE,
        allow_loopback_http=True,
        clock=clock,
    )
    yield keys
    await keys.close()


class TestRefresh:
    async def test_fresh_set_is_not_fetched_again(
        self, keys: JwksClient, issuer: FakeIssuer, clock: Clock
    ) -> None:
        await keys.key_for("old", "EdDSA")
        clock.now += LIFETIME * 0.79

        assert await keys.key_for("old", "EdDSA")
        assert (issuer.request_count, keys.generation) == (1, 1)

    async def test_refreshes_ahead_without_blocking_requests(
        self, keys: JwksClient, issuer: FakeIssuer, clock: Clock
    ) -> None:
        await keys.key_for("old", "EdDSA")
        clock.now += LIFETIME * 0.8
        issuer.gate.clear()
        issuer.publish(OLD_JWK, NEW_JWK)

        generation_when_due = keys.generation
        found = await keys.key_for("old", "EdDSA")
        assert (generation_when_due, found, keys.generation) == (None, OLD.public_key(), 1)
        await issuer.wait_for_requests(2)
        issuer.gate.set()
        await keys._wait_for_fetch()
        assert await keys.key_for("new", "EdDSA") == NEW.public_key()
        assert keys.generation == 2

    async def test_expired_set_makes_requests_wait_for_the_new_one(
        self, keys: JwksClient, issuer: FakeIssuer, clock: Clock
    ) -> None:
        await keys.key_for("old", "EdDSA")
        clock.now += LIFETIME
        issuer.publish(NEW_JWK)

        generation_when_due = keys.generation
        found = await keys.key_for("old", "EdDSA")

        assert (generation_when_due, found, keys.generation) == (None, None, 2)

    async def test_unchanged_set_keeps_its_generation(
        self, keys: JwksClient, issuer: FakeIssuer, clock: Clock
    ) -> None:
        await keys.key_for("old", "EdDSA")
        clock.now += LIFETIME

        await keys.key_for("old", "EdDSA")

        assert (issuer.request_count, keys.generation) == (2, 1)

    async def test_empty_set_is_accepted(self, keys: JwksClient, issuer: FakeIssuer, clock: Clock) -> None:
        await keys.key_for("old", "EdDSA")
        clock.now += LIFETIME
        issuer.publish()

        assert await keys.key_for("old", "EdDSA") is None


class TestUnknownKey:
    async def test_fetches_a_newly_published_key(
        self, keys: JwksClient, issuer: FakeIssuer, clock: Clock
    ) -> None:
        await keys.key_for("old", "EdDSA")
        issuer.publish(OLD_JWK, NEW_JWK)
        clock.now += UNKNOWN_KID_SECONDS

        assert await keys.key_for("new", "EdDSA") == NEW.public_key()

    async def test_random_key_ids_cannot_flood_the_issuer(
        self, keys: JwksClient, issuer: FakeIssuer, clock: Clock
    ) -> None:
        await keys.key_for("old", "EdDSA")
        clock.now += UNKNOWN_KID_SECONDS

        for n in range(50):
            assert await keys.key_for(f"random-{n}", "EdDSA") is None
            clock.now += UNKNOWN_KID_SECONDS / 100

        assert issuer.request_count == 2

    async def test_concurrent_requests_share_one_fetch(
        self, keys: JwksClient, issuer: FakeIssuer, clock: Clock
    ) -> None:
        await keys.key_for("old", "EdDSA")
        clock.now += UNKNOWN_KID_SECONDS
        issuer.publish(OLD_JWK, NEW_JWK)
        issuer.gate.clear()
        requests = [asyncio.create_task(keys.key_for("new", "EdDSA")) for _ in range(10)]
        await issuer.wait_for_requests(2)
        issuer.gate.set()

        assert await asyncio.gather(*requests) == [NEW.public_key()] * 10
        assert issuer.request_count == 2

    async def test_known_keys_stay_usable_while_the_issuer_is_down(
        self, keys: JwksClient, issuer: FakeIssuer, clock: Clock
    ) -> None:
        await keys.key_for("old", "EdDSA")
        clock.now += UNKNOWN_KID_SECONDS
        issuer.respond_with(b"", status="500 Internal Server Error")

        assert await keys.key_for("new", "EdDSA") is None
        assert await keys.key_for("old", "EdDSA") == OLD.public_key()
        assert keys.generation == 1


class TestOutage:
    async def test_is_unavailable_without_a_first_set(
        self, keys: JwksClient, issuer: FakeIssuer, clock: Clock
    ) -> None:
        issuer.respond_with(b"", status="503 Service Unavailable")

        for _ in range(3):
            with pytest.raises(IdentityProviderUnavailable):
                await keys.key_for("old", "EdDSA")
        assert (issuer.request_count, keys.generation) == (1, None)

        issuer.publish(OLD_JWK)
        clock.now += RETRY_SECONDS
        assert await keys.key_for("old", "EdDSA") == OLD.public_key()

    async def test_known_keys_stay_usable_up_to_the_limit(
        self, keys: JwksClient, issuer: FakeIssuer, clock: Clock
    ) -> None:
        await keys.key_for("old", "EdDSA")
        fetched_at = clock.now
        issuer.respond_with(b"", status="503 Service Unavailable")

        clock.now = fetched_at + MAX_STALE - 1
        assert await keys.key_for("old", "EdDSA") == OLD.public_key()
        known = keys.generation
        clock.now = fetched_at + MAX_STALE
        assert (known, keys.generation) == (1, None)
        with pytest.raises(IdentityProviderUnavailable):
            await keys.key_for("old", "EdDSA")

    async def test_requests_do_not_wait_during_a_known_outage(
        self, keys: JwksClient, issuer: FakeIssuer, clock: Clock
    ) -> None:
        await keys.key_for("old", "EdDSA")
        clock.now += LIFETIME
        issuer.respond_with(b"", status="503 Service Unavailable")
        await keys.key_for("old", "EdDSA")
        issuer.gate.clear()
        clock.now += RETRY_SECONDS

        assert await keys.key_for("old", "EdDSA") == OLD.public_key()
        await issuer.wait_for_requests(3)

    async def test_recovers_with_the_issuer(self, keys: JwksClient, issuer: FakeIssuer, clock: Clock) -> None:
        await keys.key_for("old", "EdDSA")
        issuer.respond_with(b"", status="503 Service Unavailable")
        clock.now += LIFETIME
        await keys.key_for("old", "EdDSA")
        issuer.publish(NEW_JWK)
        clock.now += OUTAGE_SECONDS

        assert await keys.key_for("old", "EdDSA") is None
        assert await keys.key_for("new", "EdDSA") == NEW.public_key()

    async def test_closed_port_is_an_outage(self, http: httpx.AsyncClient) -> None:
        async with running() as issuer:
            url = issuer.url
        keys = JwksClient(http, url, allow_loopback_http=True)

        with pytest.raises(IdentityProviderUnavailable):
            await keys.key_for("old", "EdDSA")


class TestAuthenticator:
    async def test_cached_token_is_refused_when_its_key_is_removed(
        self, keys: JwksClient, issuer: FakeIssuer, clock: Clock
    ) -> None:
        authenticator = Authenticator(keys, issuer="i", audience="a", clock=lambda: 0)
        token = f"Bearer {token_of('old')}"
        await authenticator.authenticate(token)
        issuer.publish(NEW_JWK)

        clock.now += LIFETIME - 1
        await authenticator.authenticate(token)
        await keys._wait_for_fetch()

        with pytest.raises(TokenRefused) as caught:
            await authenticator.authenticate(token)
        assert caught.value.reason == "unknown_key"


def token_of(kid: str) -> str:
    claims = {"iss": "i", "aud": "a", "sub": "s", "exp": 60, "org": "*", "scope": ""}
    return jwt.encode(claims, OLD, algorithm="EdDSA", headers={"kid": kid})
