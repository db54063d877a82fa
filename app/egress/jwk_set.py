"""Selects the members of a JWK set that may verify signatures. Pure: bytes in, keys out."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import InvalidKeyError

from app.auth.signing_keys import VerifyingKey, algorithm_of

MAX_KEYS = 100

_PARSERS: dict[str, Callable[[dict[str, Any]], object]] = {
    "OKP": OKPAlgorithm.from_jwk,
    "EC": ECAlgorithm.from_jwk,
    "RSA": RSAAlgorithm.from_jwk,
}
_PUBLIC = frozenset({"kty", "crv", "x", "y", "n", "e"})
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_log = structlog.get_logger("byok.egress")


class JwkSetRefused(Exception):
    """Not a JWK set, or too large. A member that cannot be used is skipped and does not raise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedKey:
    """A key of the set. `algorithm` is derived from the key itself, not from the set or a token."""

    kid: str | None
    algorithm: str
    key: VerifyingKey


def parse_jwk_set(content: bytes) -> tuple[TrustedKey, ...]:
    """Return the keys that may verify signatures, without duplicates. An empty set is valid: no token is trusted.

    Raises:
        JwkSetRefused
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or len(entries) > MAX_KEYS:
        raise JwkSetRefused
    trusted: list[TrustedKey] = []
    for entry in entries:
        key = _trusted_key(entry) if isinstance(entry, dict) else None
        if key is not None and key not in trusted:
            trusted.append(key)
    return tuple(trusted)


def _trusted_key(jwk: dict[str, Any]) -> TrustedKey | None:
    kid = jwk.get("kid")
    if jwk.get("use", "sig") != "sig" or not (kid is None or isinstance(kid, str)):
        return None
    # If the private key is published, anyone can sign with it, so its public key proves nothing.
    if not _PRIVATE.isdisjoint(jwk):
        _log.warning("jwks.private_key_published")
        return None
    key = _verifying_key({name: value for name, value in jwk.items() if name in _PUBLIC})
    algorithm = algorithm_of(key)
    if key is None or algorithm is None or jwk.get("alg", algorithm) != algorithm:
        return None
    return TrustedKey(kid=kid, algorithm=algorithm, key=key)


def _verifying_key(members: dict[str, Any]) -> VerifyingKey | None:
    if not all(isinstance(value, str) for value in members.values()):
        return None
    parse = _PARSERS.get(members.get("kty", ""))
    if parse is None:
        return None
    try:
        key = parse(members)
    except (InvalidKeyError, ValueError):
        return None
    return key if isinstance(key, VerifyingKey) else None
