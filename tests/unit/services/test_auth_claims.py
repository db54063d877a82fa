"""What a token must say, and from when until when it counts."""

import math

import pytest

from app.auth.authenticator import Authenticator
from tests.unit.services.auth_tokens import NOW, SKEW, Clock, Keys, authenticator_of, bearer, forged, refusal


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
    async def test_needs_every_claim_of_the_contract(self, authenticator: Authenticator, name: str) -> None:
        assert await refusal(authenticator, bearer(changes={name: ...})) == "claim_missing"

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
    async def test_refuses_a_wrong_one(
        self, authenticator: Authenticator, name: str, value: object, reason: str
    ) -> None:
        assert await refusal(authenticator, bearer(changes={name: value})) == reason

    @pytest.mark.parametrize("payload", [b"not json", b"[]", b'"text"', b"[" * 3000, b"\xff"])
    async def test_refuses_a_signed_payload_that_is_no_object(
        self, authenticator: Authenticator, payload: bytes
    ) -> None:
        assert await refusal(authenticator, forged({"alg": "EdDSA", "kid": "ed"}, payload)) == "malformed"


class TestTime:
    @pytest.mark.parametrize("early", [NOW - SKEW + 1, NOW - SKEW + 0.5])
    async def test_allows_for_the_issuers_clock(self, authenticator: Authenticator, early: float) -> None:
        await authenticator.authenticate(bearer(exp=early))

    @pytest.mark.parametrize("late", [NOW - SKEW, NOW - 3600, 0])
    async def test_refuses_an_expired_token(self, authenticator: Authenticator, late: int) -> None:
        assert await refusal(authenticator, bearer(exp=late)) == "expired"

    async def test_honours_not_before_with_the_same_allowance(self, authenticator: Authenticator) -> None:
        await authenticator.authenticate(bearer(nbf=NOW + SKEW))
        assert await refusal(authenticator, bearer(nbf=NOW + SKEW + 1)) == "not_yet_valid"

    async def test_ends_a_remembered_token_with_its_time(
        self, authenticator: Authenticator, clock: Clock
    ) -> None:
        token = bearer(exp=NOW + 600)
        await authenticator.authenticate(token)

        clock.now = NOW + 600 + SKEW - 0.1
        await authenticator.authenticate(token)
        clock.now = NOW + 600 + SKEW
        assert await refusal(authenticator, token) == "expired"

    async def test_minds_not_before_when_the_clock_is_set_back(
        self, authenticator: Authenticator, clock: Clock
    ) -> None:
        token = bearer(nbf=NOW)
        await authenticator.authenticate(token)

        clock.now = NOW - SKEW - 1

        assert await refusal(authenticator, token) == "not_yet_valid"
