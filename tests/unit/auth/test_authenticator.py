"""A valid token yields a principal; every other token gets the same error."""

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from app.auth.authenticator import Authenticator
from app.auth.principal import Scope
from app.core.errors import IdentityProviderUnavailable
from tests.support.auth_tokens import (
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
    refusal_reason,
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


class TestValidToken:
    async def test_yields_the_principal(self, authenticator: Authenticator) -> None:
        principal = await authenticator.authenticate(bearer())

        assert (principal.subject, principal.organization_id) == ("user_1", "org_acme")
        assert principal.scopes == {Scope.CREDENTIALS_READ, Scope.USAGE_READ}

    @pytest.mark.parametrize(
        ("key", "kid", "algorithm"), [(ED25519, "ed", "EdDSA"), (P256, "ec", "ES256"), (RSA, "rsa", "RS256")]
    )
    async def test_accepts_each_supported_algorithm(
        self, authenticator: Authenticator, key: SigningKey, kid: str, algorithm: str
    ) -> None:
        principal = await authenticator.authenticate(bearer(key=key, kid=kid, algorithm=algorithm))

        assert principal.subject == "user_1"

    async def test_accepts_a_token_without_a_key_id(self, authenticator: Authenticator) -> None:
        assert (await authenticator.authenticate(bearer(kid=None))).subject == "user_1"

    async def test_ignores_the_case_of_the_scheme(self, authenticator: Authenticator) -> None:
        await authenticator.authenticate(bearer().replace("Bearer", "bEARER"))

    async def test_accepts_an_audience_among_several(self, authenticator: Authenticator) -> None:
        await authenticator.authenticate(bearer(aud=["elsewhere", "byok"]))

    async def test_recognizes_an_internal_service(self, authenticator: Authenticator) -> None:
        assert (await authenticator.authenticate(bearer(org="*"))).is_service

    async def test_ignores_unknown_scopes(self, authenticator: Authenticator) -> None:
        principal = await authenticator.authenticate(bearer(scope="openid  audit:read AUDIT:READ *"))

        assert principal.scopes == {Scope.AUDIT_READ}

    async def test_accepts_an_empty_scope(self, authenticator: Authenticator) -> None:
        assert (await authenticator.authenticate(bearer(scope=""))).scopes == frozenset()


class TestAuthorizationHeader:
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
            ("Bearer " + "a" * 16_385, "too_long"),
        ],
    )
    async def test_rejects_a_malformed_header(
        self, authenticator: Authenticator, authorization: str | None, reason: str
    ) -> None:
        assert await refusal_reason(authenticator, authorization) == reason

    @pytest.mark.parametrize("separator", [",", ", ", " "])
    async def test_rejects_two_joined_headers(self, authenticator: Authenticator, separator: str) -> None:
        valid = bearer()

        await authenticator.authenticate(valid)

        assert await refusal_reason(authenticator, valid + separator + valid) == "malformed"

    @pytest.mark.parametrize("template", ["{}\n", "{}=", " {}", "{} "])
    async def test_rejects_a_valid_token_with_extra_characters(
        self, authenticator: Authenticator, template: str
    ) -> None:
        assert (
            await refusal_reason(authenticator, "Bearer " + template.format(bearer().split()[1]))
            == "malformed"
        )

    async def test_rejects_a_valid_token_that_is_too_long(self, authenticator: Authenticator) -> None:
        assert await refusal_reason(authenticator, bearer(padding="x" * 16_384)) == "too_long"

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
    async def test_rejects_a_malformed_token_header(
        self, authenticator: Authenticator, header: object
    ) -> None:
        assert await refusal_reason(authenticator, forged(header, claims())) == "malformed"

    async def test_rejects_critical_extensions_even_if_the_library_supports_them(
        self, authenticator: Authenticator
    ) -> None:
        header = {"alg": "EdDSA", "kid": "ed", "crit": ["b64"], "b64": True}

        assert await refusal_reason(authenticator, forged(header, claims())) == "critical_extension"


class TestSignature:
    @pytest.mark.parametrize(
        "algorithm", ["none", "None", "HS256", "RS512", "PS256", "ES384", "", None, ["EdDSA"]]
    )
    async def test_rejects_other_algorithms(self, authenticator: Authenticator, algorithm: object) -> None:
        token = forged({"alg": algorithm, "kid": "ed"}, claims())

        assert await refusal_reason(authenticator, token) == "algorithm_refused"

    async def test_rejects_a_token_without_signature(self, authenticator: Authenticator) -> None:
        token = forged({"alg": "none"}, claims(), lambda _: b"")

        assert await refusal_reason(authenticator, token) == "malformed"

    async def test_rejects_a_public_key_used_as_an_hmac_secret(self, authenticator: Authenticator) -> None:
        pem = RSA.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        token = forged(
            {"alg": "HS256", "kid": "rsa"}, claims(), lambda text: hmac.digest(pem, text, hashlib.sha256)
        )

        assert await refusal_reason(authenticator, token) == "algorithm_refused"

    @pytest.mark.parametrize(("kid", "algorithm"), [("rsa", "EdDSA"), ("ed", "RS256"), ("ec", "RS256")])
    async def test_binds_the_algorithm_to_the_key(
        self, authenticator: Authenticator, kid: str, algorithm: str
    ) -> None:
        token = forged({"alg": algorithm, "kid": kid}, claims())

        assert await refusal_reason(authenticator, token) == "algorithm_refused"

    async def test_rejects_a_short_rsa_key(self, authenticator: Authenticator) -> None:
        token = forged({"alg": "RS256", "kid": "weak"}, claims())

        assert await refusal_reason(authenticator, token) == "algorithm_refused"

    async def test_rejects_a_signature_of_another_key(self, authenticator: Authenticator) -> None:
        other_key = ed25519.Ed25519PrivateKey.generate()

        assert await refusal_reason(authenticator, bearer(key=other_key)) == "bad_signature"

    async def test_rejects_changed_claims(self, authenticator: Authenticator) -> None:
        head, _, signature = bearer().split(".")

        assert (
            await refusal_reason(authenticator, f"{head}.{segment(claims(org='*'))}.{signature}")
            == "bad_signature"
        )

    async def test_rejects_an_unknown_key_id(self, authenticator: Authenticator) -> None:
        assert await refusal_reason(authenticator, bearer(kid="other")) == "unknown_key"

    async def test_does_not_reject_the_token_when_no_key_set_is_available(
        self, authenticator: Authenticator, keys: Keys, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def key_for(*_: object) -> None:
            raise IdentityProviderUnavailable

        monkeypatch.setattr(keys, "key_for", key_for)

        with pytest.raises(IdentityProviderUnavailable):
            await authenticator.authenticate(bearer())
