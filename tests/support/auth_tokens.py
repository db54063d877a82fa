"""Valid and invalid tokens, and a key source that tests control."""

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from app.auth.authenticator import Authenticator, TokenRefused
from app.auth.signing_keys import VerifyingKey
from app.core.errors import Unauthenticated

NOW = 1_800_000_000
SKEW = 30
ISSUER = "https://issuer.example"
ED25519 = ed25519.Ed25519PrivateKey.generate()
P256 = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
WEAK_RSA = rsa.generate_private_key(65537, 1024)  # noqa: S505  # must be refused

SigningKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Keys:
    """A key source that a test can change, and that counts its lookups."""

    def __init__(self) -> None:
        self.generation: int | None = 1
        self.lookups = 0
        self.trusted: dict[str | None, VerifyingKey] = {
            "ed": ED25519.public_key(),
            "ec": P256.public_key(),
            "rsa": RSA.public_key(),
            "weak": WEAK_RSA.public_key(),
            None: ED25519.public_key(),
        }

    async def key_for(self, kid: str | None, algorithm: str) -> VerifyingKey | None:
        """Find a key by its id and ignore the algorithm, so that the authenticator itself must check that."""
        self.lookups += 1
        del algorithm
        return self.trusted.get(kid)


class Clock:
    """A clock in seconds since the epoch that tests set."""

    def __init__(self) -> None:
        self.now: float = NOW

    def __call__(self) -> float:
        return self.now


def authenticator_of(keys: Keys, clock: Clock) -> Authenticator:
    return Authenticator(
        keys, issuer=ISSUER, audience="byok", clock_skew_seconds=SKEW, cache_size=3, clock=clock
    )


def claims(**changes: Any) -> dict[str, Any]:
    """Valid claims with changes. The value `...` removes a claim."""
    valid = {
        "iss": ISSUER,
        "aud": "byok",
        "sub": "user_1",
        "exp": NOW + 600,
        "org": "org_acme",
        "scope": "credentials:read usage:read",
    }
    return {name: value for name, value in (valid | changes).items() if value is not ...}


def segment(value: object) -> str:
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def forged(header: object, payload: object, sign: Callable[[bytes], bytes] = ED25519.sign) -> str:
    """The Authorization header with a token that has any header, payload and signature."""
    signed = f"{segment(header)}.{segment(payload)}"
    return f"Bearer {signed}.{segment(sign(signed.encode()))}"


def bearer(
    *,
    key: SigningKey = ED25519,
    kid: str | None = "ed",
    algorithm: str = "EdDSA",
    changes: Mapping[str, Any] | None = None,
    **more: Any,
) -> str:
    """The Authorization header with a properly signed token."""
    headers = None if kid is None else {"kid": kid}
    token = jwt.encode(claims(**(changes or {}), **more), key, algorithm=algorithm, headers=headers)
    return f"Bearer {token}"


async def refusal_reason(authenticator: Authenticator, authorization: str | None) -> str:
    """The logged reason of a refusal. Its client sees only the text that all refusals have."""
    with pytest.raises(TokenRefused) as refused:
        await authenticator.authenticate(authorization)
    assert str(refused.value) == Unauthenticated.detail
    assert (refused.value.__cause__, refused.value.__context__) == (None, None)
    return refused.value.reason
