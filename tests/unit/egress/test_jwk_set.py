"""Unit tests of the selection of verification keys from a JWK set."""

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from app.egress.jwk_set import MAX_KEYS, JwkSetRefused, parse_jwk_set

ED25519 = ed25519.Ed25519PrivateKey.generate()
P256 = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
WEAK_RSA = rsa.generate_private_key(65537, 1024)  # noqa: S505  # must be skipped

OKP_JWK = OKPAlgorithm.to_jwk(ED25519.public_key(), as_dict=True)
EC_JWK = ECAlgorithm.to_jwk(P256.public_key(), as_dict=True)
RSA_JWK = RSAAlgorithm.to_jwk(RSA.public_key(), as_dict=True)


def algorithms_of(*jwks: object) -> list[tuple[str | None, str]]:
    return [(key.kid, key.algorithm) for key in parse_jwk_set(json.dumps({"keys": jwks}).encode())]


class TestParse:
    def test_binds_each_key_to_its_own_algorithm(self) -> None:
        found = algorithms_of(OKP_JWK | {"kid": "a"}, EC_JWK | {"kid": "b"}, RSA_JWK | {"kid": "c"})

        assert found == [("a", "EdDSA"), ("b", "ES256"), ("c", "RS256")]

    def test_accepts_a_signature_key(self) -> None:
        assert algorithms_of(OKP_JWK | {"use": "sig", "alg": "EdDSA"}) == [(None, "EdDSA")]

    def test_removes_duplicates(self) -> None:
        assert algorithms_of(OKP_JWK, OKP_JWK) == [(None, "EdDSA")]

    def test_accepts_an_empty_set(self) -> None:
        assert algorithms_of() == []

    @pytest.mark.parametrize(
        "jwk",
        [
            OKP_JWK | {"use": "enc"},
            OKP_JWK | {"use": ["sig"]},
            OKP_JWK | {"kid": 7},
            OKP_JWK | {"alg": "RS256"},
            OKP_JWK | {"alg": ["EdDSA"]},
            RSA_JWK | {"alg": "RS512"},
            RSA_JWK | {"alg": "PS256"},
            RSA_JWK | {"alg": "HS256"},
            OKP_JWK | {"kty": "EC"},
            OKP_JWK | {"kty": ["OKP"]},
            OKP_JWK | {"crv": "X25519"},
            OKP_JWK | {"x": "AA"},
            OKP_JWK | {"x": 7},
            EC_JWK | {"y": EC_JWK["x"]},
            RSA_JWK | {"n": ""},
            {"kty": "RSA", "n": RSA_JWK["n"]},
            {"kty": "oct", "k": "c2VjcmV0"},
            {},
            "text",
            None,
            RSAAlgorithm.to_jwk(WEAK_RSA.public_key(), as_dict=True),
            OKPAlgorithm.to_jwk(ed448.Ed448PrivateKey.generate().public_key(), as_dict=True),
            ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP384R1()).public_key(), as_dict=True),
        ],
    )
    def test_skips_unusable_keys(self, jwk: object) -> None:
        assert algorithms_of(jwk, EC_JWK | {"kid": "good"}) == [("good", "ES256")]

    @pytest.mark.parametrize(
        "jwk",
        [
            OKPAlgorithm.to_jwk(ED25519, as_dict=True),
            ECAlgorithm.to_jwk(P256, as_dict=True),
            RSAAlgorithm.to_jwk(RSA, as_dict=True),
        ],
    )
    def test_skips_published_private_keys(self, jwk: dict[str, Any]) -> None:
        assert algorithms_of(jwk) == []

    def test_limits_the_number_of_keys(self) -> None:
        assert len(algorithms_of(*[OKP_JWK] * MAX_KEYS)) == 1

        with pytest.raises(JwkSetRefused):
            algorithms_of(*[OKP_JWK] * (MAX_KEYS + 1))

    @pytest.mark.parametrize(
        "content", [b"", b"null", b"[]", b"{}", b'{"keys": {}}', b"\xff", b"[" * 100_000]
    )
    def test_refuses_other_content(self, content: bytes) -> None:
        with pytest.raises(JwkSetRefused):
            parse_jwk_set(content)
