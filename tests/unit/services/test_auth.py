"""Tokens that verify become a Principal; every other ends in the same words."""

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from app.auth.authenticator import Authenticator
from app.auth.principal import Scope
from app.core.errors import IdentityProviderUnavailable
from tests.unit.services.auth_tokens import (
    ED25519,
    P256,
    RSA,
    Clock,
    Keys,
    SigningKey,
    authenticator_of,
    bearer,
    claims,
    forged,
    refusal,
    segment,
)


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authenticator(keys: Keys, clock: Clock) -> Authenticator:
    return authenticator_of(keys, clock)


class TestAccept:
    async def test_reads_the_principal(self, authenticator: Authenticator) -> None:
        principal = await authenticator.authenticate(bearer())

        assert (principal.subject, principal.organization_id) == ("user_1", "org_acme")
        assert principal.scopes == {Scope.CREDENTIALS_READ, Scope.USAGE_READ}

    @pytest.mark.parametrize(
        ("key", "kid", "algorithm"), [(ED25519, "ed", "EdDSA"), (P256, "ec", "ES256"), (RSA, "rsa", "RS256")]
    )
    async def test_takes_each_algorithm_of_the_contract(
        self, authenticator: Authenticator, key: SigningKey, kid: str, algorithm: str
    ) -> None:
        principal = await authenticator.authenticate(bearer(key=key, kid=kid, algorithm=algorithm))

        assert principal.subject == "user_1"

    async def test_takes_a_token_without_a_key_name(self, authenticator: Authenticator) -> None:
        assert (await authenticator.authenticate(bearer(kid=None))).subject == "user_1"

    async def test_does_not_mind_the_case_of_the_scheme(self, authenticator: Authenticator) -> None:
        await authenticator.authenticate(bearer().replace("Bearer", "bEARER"))

    async def test_takes_an_audience_among_several(self, authenticator: Authenticator) -> None:
        await authenticator.authenticate(bearer(aud=["elsewhere", "byok"]))

    async def test_knows_a_service_by_its_star(self, authenticator: Authenticator) -> None:
        assert (await authenticator.authenticate(bearer(org="*"))).is_service

    async def test_ignores_scopes_that_we_do_not_know(self, authenticator: Authenticator) -> None:
        principal = await authenticator.authenticate(bearer(scope="openid  audit:read AUDIT:READ *"))

        assert principal.scopes == {Scope.AUDIT_READ}

    async def test_takes_an_empty_scope_for_no_scope(self, authenticator: Authenticator) -> None:
        assert (await authenticator.authenticate(bearer(scope=""))).scopes == frozenset()


class TestHeader:
    @pytest.mark.parametrize(
        ("authorization", "reason"),
        [
            (None, "missing"),
            ("", "missing"),
            ("Basic dXNlcjpwYXNz", "not_bearer"),
            ("Bearer", "malformed"),
            ("Bearer ", "malformed"),
            ("Bearer one.two", "malformed"),
            ("Bearer a.b.c.d.e", "malformed"),
            ("Bearer canary.canary.canary", "malformed"),
            ("Bearer \u00fc.\u00fc.\u00fc", "malformed"),
            ("Bearer " + "a" * 8193, "too_long"),
        ],
    )
    async def test_refuses_what_is_no_token(
        self, authenticator: Authenticator, authorization: str | None, reason: str
    ) -> None:
        assert await refusal(authenticator, authorization) == reason

    @pytest.mark.parametrize("joint", [",", ", ", " "])
    async def test_refuses_two_headers_in_one(self, authenticator: Authenticator, joint: str) -> None:
        good = bearer()

        await authenticator.authenticate(good)

        assert await refusal(authenticator, good + joint + good) == "malformed"

    @pytest.mark.parametrize("around", ["{}\n", "{}=", " {}", "{} "])
    async def test_refuses_a_good_token_with_something_around_it(
        self, authenticator: Authenticator, around: str
    ) -> None:
        assert await refusal(authenticator, "Bearer " + around.format(bearer().split()[1])) == "malformed"

    async def test_refuses_a_good_token_that_is_oversized(self, authenticator: Authenticator) -> None:
        assert await refusal(authenticator, bearer(padding="x" * 8192)) == "too_long"

    @pytest.mark.parametrize(
        "header",
        [
            b"not json",
            b'"text"',
            b"[" * 3000,
            {"alg": "EdDSA", "kid": 1},
            {"alg": "EdDSA", "kid": "ed", "b64": False},
            {"alg": "EdDSA", "kid": "ed", "crit": ["exp"]},
        ],
    )
    async def test_refuses_a_malformed_token_header(
        self, authenticator: Authenticator, header: object
    ) -> None:
        assert await refusal(authenticator, forged(header, claims())) == "malformed"

    async def test_refuses_critical_extensions_even_where_the_library_knows_them(
        self, authenticator: Authenticator
    ) -> None:
        header = {"alg": "EdDSA", "kid": "ed", "crit": ["b64"], "b64": True}

        assert await refusal(authenticator, forged(header, claims())) == "critical_extension"


class TestSignature:
    @pytest.mark.parametrize(
        "algorithm", ["none", "None", "HS256", "RS512", "PS256", "ES384", "", None, ["EdDSA"]]
    )
    async def test_refuses_other_algorithms(self, authenticator: Authenticator, algorithm: object) -> None:
        token = forged({"alg": algorithm, "kid": "ed"}, claims())

        assert await refusal(authenticator, token) == "algorithm_refused"

    async def test_refuses_a_token_without_signature(self, authenticator: Authenticator) -> None:
        token = forged({"alg": "none"}, claims(), lambda _: b"")

        assert await refusal(authenticator, token) == "malformed"

    async def test_refuses_a_public_key_used_as_a_secret(self, authenticator: Authenticator) -> None:
        pem = RSA.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        token = forged(
            {"alg": "HS256", "kid": "rsa"}, claims(), lambda text: hmac.digest(pem, text, hashlib.sha256)
        )

        assert await refusal(authenticator, token) == "algorithm_refused"

    @pytest.mark.parametrize(("kid", "algorithm"), [("rsa", "EdDSA"), ("ed", "RS256"), ("ec", "RS256")])
    async def test_binds_the_algorithm_to_the_key(
        self, authenticator: Authenticator, kid: str, algorithm: str
    ) -> None:
        token = forged({"alg": algorithm, "kid": kid}, claims())

        assert await refusal(authenticator, token) == "algorithm_refused"

    async def test_refuses_a_short_rsa_key(self, authenticator: Authenticator) -> None:
        token = forged({"alg": "RS256", "kid": "weak"}, claims())

        assert await refusal(authenticator, token) == "algorithm_refused"

    async def test_refuses_another_signature(self, authenticator: Authenticator) -> None:
        stranger = ed25519.Ed25519PrivateKey.generate()

        assert await refusal(authenticator, bearer(key=stranger)) == "bad_signature"

    async def test_refuses_changed_claims(self, authenticator: Authenticator) -> None:
        head, _, signature = bearer().split(".")

        assert (
            await refusal(authenticator, f"{head}.{segment(claims(org='*'))}.{signature}") == "bad_signature"
        )

    async def test_refuses_a_key_that_nobody_trusts(self, authenticator: Authenticator) -> None:
        assert await refusal(authenticator, bearer(kid="other")) == "unknown_key"

    async def test_does_not_blame_the_token_when_there_are_no_keys(
        self, authenticator: Authenticator, keys: Keys, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def key_for(*_: object) -> None:
            raise IdentityProviderUnavailable

        monkeypatch.setattr(keys, "key_for", key_for)

        with pytest.raises(IdentityProviderUnavailable):
            await authenticator.authenticate(bearer())
