"""The claims that a token must have, and the time during which it is valid."""

import math

import pytest

from app.auth.authenticator import Authenticator
from tests.support.auth_tokens import NOW, SKEW, Clock, Keys, authenticator_of, bearer, forged, refusal_reason


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authenticator(keys: Keys, clock: Clock) -> Authenticator:
    return authenticator_of(keys, clock)


class TestClaims:
    @pytest.mark.parametrize("name", ["iss", "aud", "sub", "exp", "org", "scope"])
    async def test_requires_every_claim(self, authenticator: Authenticator, name: str) -> None:
        assert await refusal_reason(authenticator, bearer(changes={name: ...})) == "claim_missing"

    @pytest.mark.parametrize(
        ("name", "value", "reason"),
        [
            ("iss", "https://issuer.example/", "wrong_issuer"),
            ("iss", "https://elsewhere.example", "wrong_issuer"),
            ("aud", "elsewhere", "wrong_audience"),
            ("aud", ["elsewhere"], "wrong_audience"),
            ("aud", [], "claim_missing"),
            ("aud", {"byok": 1}, "wrong_audience"),
            ("aud", ["byok", 1], "wrong_audience"),
            ("sub", "", "bad_claim"),
            ("sub", "s" * 256, "bad_claim"),
            ("sub", "line\nbreak", "bad_claim"),
            ("sub", "\ud800", "bad_claim"),
            ("sub", 7, "bad_claim"),
            ("jti", 7, "bad_claim"),
            ("org", "", "bad_claim"),
            ("org", "**", "bad_claim"),
            ("org", "org_acme\n", "bad_claim"),
            ("org", "a/b", "bad_claim"),
            ("org", "o" * 65, "bad_claim"),
            ("org", ["org_acme"], "bad_claim"),
            ("org", "sk-ant-api03-R2DxxSECRET", "looks_like_key"),
            ("sub", "SK-ANT-api03-R2DxxSECRET@example.com", "looks_like_key"),
            ("org", "_operator", "reserved_organization"),
            ("org", "_services", "reserved_organization"),
            ("org", "_", "reserved_organization"),
            ("scope", ["audit:read"], "bad_claim"),
            ("exp", str(NOW + 600), "bad_claim"),
            ("exp", True, "bad_claim"),
            ("exp", math.inf, "bad_claim"),
            ("exp", math.nan, "bad_claim"),
            ("exp", 10**400, "bad_claim"),
            ("nbf", None, "bad_claim"),
            ("nbf", "soon", "bad_claim"),
        ],
    )
    async def test_rejects_an_invalid_value(
        self, authenticator: Authenticator, name: str, value: object, reason: str
    ) -> None:
        assert await refusal_reason(authenticator, bearer(changes={name: value})) == reason

    @pytest.mark.parametrize("payload", [b"not json", b"[]", b'"text"', b"[" * 3000, b"\xff"])
    async def test_rejects_a_signed_payload_that_is_not_an_object(
        self, authenticator: Authenticator, payload: bytes
    ) -> None:
        assert (
            await refusal_reason(authenticator, forged({"alg": "EdDSA", "kid": "ed"}, payload)) == "malformed"
        )


class TestTime:
    @pytest.mark.parametrize("expired_at", [NOW - SKEW + 1, NOW - SKEW + 0.5])
    async def test_tolerates_the_clock_skew_of_the_issuer(
        self, authenticator: Authenticator, expired_at: float
    ) -> None:
        await authenticator.authenticate(bearer(exp=expired_at))

    @pytest.mark.parametrize("expired_at", [NOW - SKEW, NOW - 3600, 0])
    async def test_rejects_an_expired_token(self, authenticator: Authenticator, expired_at: int) -> None:
        assert await refusal_reason(authenticator, bearer(exp=expired_at)) == "expired"

    async def test_applies_the_clock_skew_to_not_before(self, authenticator: Authenticator) -> None:
        await authenticator.authenticate(bearer(nbf=NOW + SKEW))
        assert await refusal_reason(authenticator, bearer(nbf=NOW + SKEW + 1)) == "not_yet_valid"

    async def test_rejects_a_cached_token_after_it_expires(
        self, authenticator: Authenticator, clock: Clock
    ) -> None:
        token = bearer(exp=NOW + 600)
        await authenticator.authenticate(token)

        clock.now = NOW + 600 + SKEW - 0.1
        await authenticator.authenticate(token)
        clock.now = NOW + 600 + SKEW
        assert await refusal_reason(authenticator, token) == "expired"

    async def test_rejects_a_cached_token_before_its_not_before(
        self, authenticator: Authenticator, clock: Clock
    ) -> None:
        token = bearer(nbf=NOW)
        await authenticator.authenticate(token)

        clock.now = NOW - SKEW - 1

        assert await refusal_reason(authenticator, token) == "not_yet_valid"
