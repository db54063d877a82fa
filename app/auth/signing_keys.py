"""The embedded development key that signs tokens, and which keys may verify one.

For development alone: production refuses to start without an external issuer.
"""

import base64
import hashlib
import json
from collections.abc import Collection, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from app.core.clock import new_id, now
from app.core.private_file import PrivateFileRefused, create_private_file, read_private_file

VerifyingKey = Ed25519PublicKey | EllipticCurvePublicKey | RSAPublicKey

EMBEDDED_ISSUER = "byok-development"
DEFAULT_AUDIENCE = "byok"

# Below is forgeable in time, above makes one verification cost what a thousand should.
_RSA_BITS = range(2048, 8192 + 1)
_FILE = Path("auth") / "signing-key.pem"
_LARGEST_FILE = 4096


def algorithm_of(key: object) -> str | None:
    """The one algorithm that this key may verify, whatever a token says; None: not a key we trust."""
    match key:
        case Ed25519PublicKey():
            return "EdDSA"
        case EllipticCurvePublicKey() if isinstance(key.curve, SECP256R1):
            return "ES256"
        case RSAPublicKey() if key.key_size in _RSA_BITS:
            return "RS256"
    return None


class EmbeddedIssuer:
    """Signs tokens with a key that never leaves the data directory, and is the source of that key."""

    generation: Final = 0  # the key lives as long as the process

    def __init__(self, key: Ed25519PrivateKey, *, issuer: str, audience: str) -> None:
        self._key = key
        self.public_key = key.public_key()
        self.kid = _thumbprint(self.public_key)
        self.issuer = issuer
        self.audience = audience

    @classmethod
    def load_or_create(
        cls, data_dir: Path, *, issuer: str = EMBEDDED_ISSUER, audience: str = DEFAULT_AUDIENCE
    ) -> "EmbeddedIssuer":
        """The key of this data directory, made on first use; processes that start together agree on one.

        Raises:
            PrivateFileRefused: the file is not ours alone, or holds something else.
        """
        path = data_dir / _FILE
        try:
            pem = read_private_file(path, max_bytes=_LARGEST_FILE)
        except FileNotFoundError:
            create_private_file(path, _new_pem())
            pem = read_private_file(path, max_bytes=_LARGEST_FILE)
        return cls(_parse(path, pem), issuer=issuer, audience=audience)

    def issue(self, *, subject: str, organization_id: str, scopes: Collection[str], ttl: timedelta) -> str:
        """A token as the contract wants it; `organization_id` is `*` for internal services."""
        issued_at = int(now().timestamp())
        return self.sign(
            {
                "iss": self.issuer,
                "aud": self.audience,
                "sub": subject,
                "iat": issued_at,
                "exp": issued_at + int(ttl.total_seconds()),
                "jti": str(new_id()),
                "org": organization_id,
                "scope": " ".join(sorted(scopes)),
            }
        )

    def sign(self, claims: Mapping[str, Any]) -> str:
        return jwt.encode(dict(claims), self._key, algorithm="EdDSA", headers={"kid": self.kid})

    async def key_for(self, kid: str | None, algorithm: str) -> VerifyingKey | None:
        return self.public_key if kid in {None, self.kid} and algorithm == "EdDSA" else None


def _new_pem() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _parse(path: Path, pem: bytes) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise PrivateFileRefused(
            path, "holds no Ed25519 private key; remove it to have a new one made (older tokens then end)."
        )
    return key


def _thumbprint(key: Ed25519PublicKey) -> str:
    """RFC 7638: the hash of the required members in lexical order, without spaces."""
    members = {"crv": "Ed25519", "kty": "OKP", "x": _base64url(key.public_bytes_raw())}
    return _base64url(hashlib.sha256(json.dumps(members, separators=(",", ":")).encode()).digest())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
