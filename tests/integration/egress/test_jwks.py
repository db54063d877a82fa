"""Fetching the JWKS of the issuer: limits, and one fetch for concurrent requests."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from app.core.errors import IdentityProviderUnavailable
from app.egress.http_client import http_client
from app.egress.json_download import MAX_RESPONSE_BYTES
from app.egress.jwks import JwksClient
from tests.support.network.fake_issuer import FakeIssuer, jwk, running

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
    async def test_finds_a_key_by_its_id(self, keys: JwksClient) -> None:
        assert await keys.key_for("old", "EdDSA") == OLD.public_key()
        assert await keys.key_for("old", "RS256") is None

    async def test_uses_the_only_key_for_a_token_without_key_id(self, keys: JwksClient) -> None:
        assert await keys.key_for(None, "EdDSA") == OLD.public_key()
        assert await keys.key_for(None, "RS256") is None

    @pytest.mark.parametrize("kid", [None, "old"])
    async def test_two_matching_keys_give_none(
        self, keys: JwksClient, issuer: FakeIssuer, kid: str | None
    ) -> None:
        another = ed25519.Ed25519PrivateKey.generate().public_key()
        issuer.publish(OLD_JWK, jwk(another, "old"))

        assert await keys.key_for(kid, "EdDSA") is None

    async def test_concurrent_requests_share_one_fetch(self, keys: JwksClient, issuer: FakeIssuer) -> None:
        issuer.gate.clear()
        requests = [asyncio.create_task(keys.key_for("old", "EdDSA")) for _ in range(20)]
        await issuer.wait_for_requests(1)
        issuer.gate.set()

        found = await asyncio.gather(*requests)

        assert found == [OLD.public_key()] * 20
        assert issuer.request_count == 1

    async def test_cancelled_waiter_does_not_cancel_the_fetch(
        self, keys: JwksClient, issuer: FakeIssuer
    ) -> None:
        issuer.gate.clear()
        cancelled = asyncio.create_task(keys.key_for("old", "EdDSA"))
        waiting = asyncio.create_task(keys.key_for("old", "EdDSA"))
        await issuer.wait_for_requests(1)

        cancelled.cancel()
        await asyncio.wait([cancelled])
        issuer.gate.set()

        assert await waiting == OLD.public_key()
        assert issuer.request_count == 1

    async def test_declines_compression(self, keys: JwksClient, issuer: FakeIssuer) -> None:
        await keys.key_for("old", "EdDSA")

        assert issuer.paths == ["/jwks"]
        assert b"accept-encoding: identity\r\n" in issuer.headers.lower()

    @pytest.mark.parametrize("location", ["/elsewhere", "https://xn--a.example.com/", "https://[/"])
    async def test_does_not_follow_redirects(
        self, keys: JwksClient, issuer: FakeIssuer, location: str
    ) -> None:
        issuer.respond_with(b"", status="302 Found", headers={"Location": location})

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
            json.dumps({"keys": [OLD_JWK], "padding": "x" * MAX_RESPONSE_BYTES}).encode(),
        ],
        ids=["empty", "html", "list", "no list", "deep", "long number", "many keys", "huge"],
    )
    async def test_refuses_a_response_that_is_not_a_key_set(
        self, keys: JwksClient, issuer: FakeIssuer, body: bytes
    ) -> None:
        issuer.respond_with(body)

        with pytest.raises(IdentityProviderUnavailable) as caught:
            await keys.key_for("old", "EdDSA")
        assert str(caught.value) == IdentityProviderUnavailable.detail

    @pytest.mark.parametrize("status", ["404 Not Found", "500 Internal Server Error", "204 No Content"])
    async def test_refuses_other_statuses(self, keys: JwksClient, issuer: FakeIssuer, status: str) -> None:
        issuer.respond_with(b"", status=status)

        with pytest.raises(IdentityProviderUnavailable):
            await keys.key_for("old", "EdDSA")

    async def test_refuses_a_compressed_response(self, keys: JwksClient, issuer: FakeIssuer) -> None:
        issuer.respond_with(
            gzip.compress(json.dumps({"keys": [OLD_JWK]}).encode()), headers={"Content-Encoding": "gzip"}
        )

        with pytest.raises(IdentityProviderUnavailable):
            await keys.key_for("old", "EdDSA")

    async def test_silent_issuer_is_a_timeout(self, http: httpx.AsyncClient, issuer: FakeIssuer) -> None:
        issuer.gate.clear()
        keys = JwksClient(http, issuer.url, allow_loopback_http=True, timeout_seconds=0.05)

        with pytest.raises(IdentityProviderUnavailable):
            await keys.key_for("old", "EdDSA")

    async def test_close_cancels_the_fetch(self, keys: JwksClient, issuer: FakeIssuer) -> None:
        issuer.gate.clear()
        request = asyncio.create_task(keys.key_for("old", "EdDSA"))
        await issuer.wait_for_requests(1)

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
    async def test_must_be_https(self, http: httpx.AsyncClient, url: str) -> None:
        with pytest.raises(ValueError, match="the JWKS URL") as caught:
            JwksClient(http, url)
        assert "canary" not in str(caught.value)

    @pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
    async def test_may_be_loopback_http_in_development(self, http: httpx.AsyncClient, host: str) -> None:
        JwksClient(http, f"http://{host}:8080/jwks", allow_loopback_http=True)

        with pytest.raises(ValueError, match="https"):
            JwksClient(http, "http://10.0.0.1/jwks", allow_loopback_http=True)
