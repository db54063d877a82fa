"""One fetch of the issuer's keys: bounded in every way, once for all who ask."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from app.core.errors import IdentityProviderUnavailable
from app.egress.http_client import http_client
from app.egress.jwks import LARGEST_ANSWER, JwksClient
from tests.integration.egress.fake_issuer import FakeIssuer, jwk, running

OLD = ed25519.Ed25519PrivateKey.generate()
OLD_JWK = jwk(OLD.public_key(), "old")


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
async def keys(http: httpx.AsyncClient, issuer: FakeIssuer) -> AsyncIterator[JwksClient]:
    keys = JwksClient(http, issuer.url, allow_loopback_http=True)
    yield keys
    await keys.close()


class TestFetch:
    async def test_finds_a_key_by_its_name(self, keys: JwksClient) -> None:
        assert await keys.key_for("old", "EdDSA") == OLD.public_key()
        assert await keys.key_for("old", "RS256") is None

    async def test_takes_the_only_key_where_a_token_names_none(self, keys: JwksClient) -> None:
        assert await keys.key_for(None, "EdDSA") == OLD.public_key()
        assert await keys.key_for(None, "RS256") is None

    @pytest.mark.parametrize("kid", [None, "old"])
    async def test_does_not_guess_between_two_keys(
        self, keys: JwksClient, issuer: FakeIssuer, kid: str | None
    ) -> None:
        another = ed25519.Ed25519PrivateKey.generate().public_key()
        issuer.publish(OLD_JWK, jwk(another, "old"))

        assert await keys.key_for(kid, "EdDSA") is None

    async def test_asks_once_for_many_requests_at_once(self, keys: JwksClient, issuer: FakeIssuer) -> None:
        issuer.gate.clear()
        requests = [asyncio.create_task(keys.key_for("old", "EdDSA")) for _ in range(20)]
        await issuer.has_been_asked(1)
        issuer.gate.set()

        found = await asyncio.gather(*requests)

        assert found == [OLD.public_key()] * 20
        assert issuer.asked == 1

    async def test_goes_on_for_the_others_when_one_gives_up(
        self, keys: JwksClient, issuer: FakeIssuer
    ) -> None:
        issuer.gate.clear()
        impatient = asyncio.create_task(keys.key_for("old", "EdDSA"))
        patient = asyncio.create_task(keys.key_for("old", "EdDSA"))
        await issuer.has_been_asked(1)

        impatient.cancel()
        await asyncio.wait([impatient])
        issuer.gate.set()

        assert await patient == OLD.public_key()
        assert issuer.asked == 1

    async def test_sends_no_more_than_the_question(self, keys: JwksClient, issuer: FakeIssuer) -> None:
        await keys.key_for("old", "EdDSA")

        assert issuer.paths == ["/jwks"]
        assert b"accept-encoding: identity\r\n" in issuer.headers.lower()

    async def test_follows_no_redirect(self, keys: JwksClient, issuer: FakeIssuer) -> None:
        issuer.reply(b"", status="302 Found", headers={"Location": "/elsewhere"})

        with pytest.raises(IdentityProviderUnavailable):
            await keys.key_for("old", "EdDSA")
        assert issuer.paths == ["/jwks"]

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"<html>",
            b"[]",
            b'{"keys": {}}',
            b"[" * 100_000,
            b'{"keys": [' + b"1" * 5000 + b"]}",
            json.dumps({"keys": [OLD_JWK] * 101}).encode(),
            json.dumps({"keys": [OLD_JWK], "padding": "x" * LARGEST_ANSWER}).encode(),
        ],
        ids=["empty", "html", "list", "no list", "deep", "long number", "many keys", "huge"],
    )
    async def test_refuses_an_answer_that_is_no_key_set(
        self, keys: JwksClient, issuer: FakeIssuer, body: bytes
    ) -> None:
        issuer.reply(body)

        with pytest.raises(IdentityProviderUnavailable) as unavailable:
            await keys.key_for("old", "EdDSA")
        assert str(unavailable.value) == IdentityProviderUnavailable.detail

    @pytest.mark.parametrize("status", ["404 Not Found", "500 Internal Server Error", "204 No Content"])
    async def test_refuses_another_status(self, keys: JwksClient, issuer: FakeIssuer, status: str) -> None:
        issuer.reply(b"", status=status)

        with pytest.raises(IdentityProviderUnavailable):
            await keys.key_for("old", "EdDSA")

    async def test_refuses_a_compressed_answer(self, keys: JwksClient, issuer: FakeIssuer) -> None:
        issuer.reply(
            gzip.compress(json.dumps({"keys": [OLD_JWK]}).encode()), headers={"Content-Encoding": "gzip"}
        )

        with pytest.raises(IdentityProviderUnavailable):
            await keys.key_for("old", "EdDSA")

    async def test_gives_up_on_an_issuer_that_never_answers(
        self, http: httpx.AsyncClient, issuer: FakeIssuer
    ) -> None:
        issuer.gate.clear()
        keys = JwksClient(http, issuer.url, allow_loopback_http=True, timeout_seconds=0.05)

        with pytest.raises(IdentityProviderUnavailable):
            await keys.key_for("old", "EdDSA")

    async def test_ends_a_fetch_when_closed(self, keys: JwksClient, issuer: FakeIssuer) -> None:
        issuer.gate.clear()
        request = asyncio.create_task(keys.key_for("old", "EdDSA"))
        await issuer.has_been_asked(1)

        await keys.close()
        await asyncio.wait([request])

        assert request.cancelled()


class TestUrl:
    @pytest.mark.parametrize(
        "url",
        [
            "http://issuer.example/jwks",
            "http://127.0.0.1/jwks",
            "ftp://issuer.example/jwks",
            "https://user:canary@issuer.example/jwks",
            "https:///jwks",
            "https://issuer.example/jwks#canary",
            "https://issuer.example:canary/jwks",
            "",
        ],
    )
    async def test_must_be_plain_https(self, http: httpx.AsyncClient, url: str) -> None:
        with pytest.raises(ValueError, match="the JWKS URL") as refused:
            JwksClient(http, url)
        assert "canary" not in str(refused.value)

    @pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
    async def test_may_be_http_on_loopback_in_development(self, http: httpx.AsyncClient, host: str) -> None:
        JwksClient(http, f"http://{host}:8080/jwks", allow_loopback_http=True)

        with pytest.raises(ValueError, match="https"):
            JwksClient(http, "http://10.0.0.1/jwks", allow_loopback_http=True)
