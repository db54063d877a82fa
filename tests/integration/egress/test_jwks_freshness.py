"""The issuer's keys over time: renewed ahead, looked up anew for unknown names, given up in time."""

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
from tests.integration.egress.fake_issuer import Clock, FakeIssuer, jwk, running

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
    async def test_asks_nobody_while_the_set_is_fresh(
        self, keys: JwksClient, issuer: FakeIssuer, clock: Clock
    ) -> None:
        await keys.key_for("old", "EdDSA")
        clock.now += LIFETIME * 0.79

        assert await keys.key_for("old", "EdDSA")
        assert (issuer.asked, keys.generation) == (1, 1)

    async def test_renews_ahead_without_holding_anybody_up(
        self, keys: JwksClient, issuer: FakeIssuer, clock: Clock
    ) -> None:
        await keys.key_for("old", "EdDSA")
        clock.now += LIFETIME * 0.8
        issuer.gate.clear()
        issuer.publish(OLD_JWK, NEW_JWK)

        due = keys.generation
        found = await keys.key_for("old", "EdDSA")
        assert (due, found, keys.generation) == (None, OLD.public_key(), 1)
        await issuer.has_been_asked(2)
        issuer.gate.set()
        await keys._landing()
        assert await keys.key_for("new", "EdDSA") == NEW.public_key()
        assert keys.generation == 2

    async def test_waits_for_the_new_set_once_the_old_one_is_past_its_time(
        self, keys: JwksClient, issuer: FakeIssuer, clock: Clock
    ) -> None:
        await keys.key_for("old", "EdDSA")
        clock.now += LIFETIME
        issuer.publish(NEW_JWK)

        due = keys.generation
        found = await keys.key_for("old", "EdDSA")

        assert (due, found, keys.generation) == (None, None, 2)

    async def test_keeps_the_generation_when_nothing_changed(
        self, keys: JwksClient, issuer: FakeIssuer, clock: Clock
    ) -> None:
        await keys.key_for("old", "EdDSA")
        clock.now += LIFETIME

        await keys.key_for("old", "EdDSA")

        assert (issuer.asked, keys.generation) == (2, 1)

    async def test_takes_an_empty_set_for_an_answer(
        self, keys: JwksClient, issuer: FakeIssuer, clock: Clock
    ) -> None:
        await keys.key_for("old", "EdDSA")
        clock.now += LIFETIME
        issuer.publish()

        assert await keys.key_for("old", "EdDSA") is None


class TestUnknownKey:
    async def test_finds_a_key_that_was_published_meanwhile(
        self, keys: JwksClient, issuer: FakeIssuer, clock: Clock
    ) -> None:
        await keys.key_for("old", "EdDSA")
        issuer.publish(OLD_JWK, NEW_JWK)
        clock.now += UNKNOWN_KID_SECONDS

        assert await keys.key_for("new", "EdDSA") == NEW.public_key()

    async def test_cannot_be_used_to_hammer_the_issuer(
        self, keys: JwksClient, issuer: FakeIssuer, clock: Clock
    ) -> None:
        await keys.key_for("old", "EdDSA")
        clock.now += UNKNOWN_KID_SECONDS

        for n in range(50):
            assert await keys.key_for(f"made-up-{n}", "EdDSA") is None
            clock.now += UNKNOWN_KID_SECONDS / 100

        assert issuer.asked == 2

    async def test_shares_one_fetch_among_many(
        self, keys: JwksClient, issuer: FakeIssuer, clock: Clock
    ) -> None:
        await keys.key_for("old", "EdDSA")
        clock.now += UNKNOWN_KID_SECONDS
        issuer.publish(OLD_JWK, NEW_JWK)
        issuer.gate.clear()
        requests = [asyncio.create_task(keys.key_for("new", "EdDSA")) for _ in range(10)]
        await issuer.has_been_asked(2)
        issuer.gate.set()

        assert await asyncio.gather(*requests) == [NEW.public_key()] * 10
        assert issuer.asked == 2

    async def test_leaves_known_keys_alone_when_the_issuer_is_down(
        self, keys: JwksClient, issuer: FakeIssuer, clock: Clock
    ) -> None:
        await keys.key_for("old", "EdDSA")
        clock.now += UNKNOWN_KID_SECONDS
        issuer.reply(b"", status="500 Internal Server Error")

        assert await keys.key_for("new", "EdDSA") is None
        assert await keys.key_for("old", "EdDSA") == OLD.public_key()
        assert keys.generation == 1


class TestOutage:
    async def test_says_so_when_there_never_was_a_set(
        self, keys: JwksClient, issuer: FakeIssuer, clock: Clock
    ) -> None:
        issuer.reply(b"", status="503 Service Unavailable")

        for _ in range(3):
            with pytest.raises(IdentityProviderUnavailable):
                await keys.key_for("old", "EdDSA")
        assert (issuer.asked, keys.generation) == (1, None)

        issuer.publish(OLD_JWK)
        clock.now += RETRY_SECONDS
        assert await keys.key_for("old", "EdDSA") == OLD.public_key()

    async def test_works_on_with_known_keys_up_to_the_limit(
        self, keys: JwksClient, issuer: FakeIssuer, clock: Clock
    ) -> None:
        await keys.key_for("old", "EdDSA")
        fetched_at = clock.now
        issuer.reply(b"", status="503 Service Unavailable")

        clock.now = fetched_at + MAX_STALE - 1
        assert await keys.key_for("old", "EdDSA") == OLD.public_key()
        known = keys.generation
        clock.now = fetched_at + MAX_STALE
        assert (known, keys.generation) == (1, None)
        with pytest.raises(IdentityProviderUnavailable):
            await keys.key_for("old", "EdDSA")

    async def test_holds_nobody_up_while_the_issuer_is_known_to_be_down(
        self, keys: JwksClient, issuer: FakeIssuer, clock: Clock
    ) -> None:
        await keys.key_for("old", "EdDSA")
        clock.now += LIFETIME
        issuer.reply(b"", status="503 Service Unavailable")
        await keys.key_for("old", "EdDSA")
        issuer.gate.clear()
        clock.now += RETRY_SECONDS

        assert await keys.key_for("old", "EdDSA") == OLD.public_key()
        await issuer.has_been_asked(3)

    async def test_comes_back_with_the_issuer(
        self, keys: JwksClient, issuer: FakeIssuer, clock: Clock
    ) -> None:
        await keys.key_for("old", "EdDSA")
        issuer.reply(b"", status="503 Service Unavailable")
        clock.now += LIFETIME
        await keys.key_for("old", "EdDSA")
        issuer.publish(NEW_JWK)
        clock.now += OUTAGE_SECONDS

        assert await keys.key_for("old", "EdDSA") is None
        assert await keys.key_for("new", "EdDSA") == NEW.public_key()

    async def test_takes_a_closed_port_for_an_outage(self, http: httpx.AsyncClient) -> None:
        async with running() as issuer:
            url = issuer.url
        keys = JwksClient(http, url, allow_loopback_http=True)

        with pytest.raises(IdentityProviderUnavailable):
            await keys.key_for("old", "EdDSA")


class TestAuthenticator:
    async def test_ends_a_remembered_token_when_its_key_leaves_the_set(
        self, keys: JwksClient, issuer: FakeIssuer, clock: Clock
    ) -> None:
        authenticator = Authenticator(keys, issuer="i", audience="a", clock=lambda: 0)
        token = f"Bearer {token_of('old')}"
        await authenticator.authenticate(token)
        issuer.publish(NEW_JWK)

        clock.now += LIFETIME - 1
        await authenticator.authenticate(token)
        await keys._landing()

        with pytest.raises(TokenRefused) as refused:
            await authenticator.authenticate(token)
        assert refused.value.reason == "unknown_key"


def token_of(kid: str) -> str:
    claims = {"iss": "i", "aud": "a", "sub": "s", "exp": 60, "org": "*", "scope": ""}
    return jwt.encode(claims, OLD, algorithm="EdDSA", headers={"kid": kid})
