"""The embedded development key that signs tokens, and the kinds of keys that may verify a token.

The embedded key is only for development: in production the service does not start without an external issuer.
"""

import base64
import hashlib
import json
from collections.abc import Collection, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

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

# Smaller keys can be broken; larger ones make a single verification a thousand times more expensive.
_RSA_BITS = range(2048, 8192 + 1)
_FILE = Path("auth") / "signing-key.pem"
_LARGEST_FILE = 4096


def algorithm_of(key: object) -> str | None:
    """The only algorithm that this key may verify, whatever a token claims. None: the key is not accepted."""
    match key:
        case Ed25519PublicKey():
            return "EdDSA"
        case EllipticCurvePublicKey() if isinstance(key.curve, SECP256R1):
            return "ES256"
        case RSAPublicKey() if key.key_size in _RSA_BITS:
            return "RS256"
    return None


class EmbeddedIssuer:
    """Signs tokens with a key that never leaves the data directory, and is the `KeySource` for that key."""

    generation: Final = 0  # the key does not change while the process runs

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
        """Load the key of this data directory, or create it. Processes that start together use the same key.

        Raises:
            PrivateFileRefused: another user may read the file, or it does not contain an Ed25519 private key.
        """
        path = data_dir / _FILE
        try:
            pem = read_private_file(path, max_bytes=_LARGEST_FILE)
        except FileNotFoundError:
            create_private_file(path, _new_pem())
            pem = read_private_file(path, max_bytes=_LARGEST_FILE)
        return cls(_parse(path, pem), issuer=issuer, audience=audience)

    def issue(
        self,
        *,
        subject: str,
        organization_id: str,
        scopes: Collection[str],
        ttl: timedelta,
        relay: Mapping[str, Any] | None = None,
    ) -> str:
        """Issue a token with the claims that the service requires.

        Args:
            subject: the caller's name.
            organization_id: `*` for internal services.
            scopes: the scopes.
            ttl: the lifetime.
            relay: what the token may use the relay for; None for no restriction.
        """
        issued_at = int(now().timestamp())
        restrictions = {} if relay is None else {"relay": dict(relay)}
        return self.sign(
            {
                **restrictions,
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
        """Sign claims as a JWT (RFC 7515, RFC 8037). Written out, because PyJWT takes longer to import than all else here."""
        header = {"alg": "EdDSA", "kid": self.kid, "typ": "JWT"}
        signed = ".".join(_base64url(_json(part)) for part in (header, dict(claims)))
        return f"{signed}.{_base64url(self._key.sign(signed.encode()))}"

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
            path,
            "does not contain an Ed25519 private key. Remove it to create a new key; older tokens then become invalid.",
        )
    return key


def _thumbprint(key: Ed25519PublicKey) -> str:
    """The key's thumbprint (RFC 7638): the hash of its required members in lexical order, without spaces."""
    members = {"crv": "Ed25519", "kty": "OKP", "x": _base64url(key.public_bytes_raw())}
    return _base64url(hashlib.sha256(_json(members)).digest())


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
