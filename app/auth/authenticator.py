"""Verifies bearer tokens. The rules are the same for every issuer; a `KeySource` supplies the keys."""

import hashlib
import math
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import jwt

from app.auth.claims import ClaimInvalid, ClaimNames, relay_restrictions_of
from app.auth.principal import Principal, Scope, expiry_of
from app.auth.signing_keys import VerifyingKey, algorithm_of
from app.core.errors import Unauthenticated
from app.core.keys.key_lookalike import looks_like_key
from app.core.organizations import ANY_ORGANIZATION, ORGANIZATION_PATTERN, is_reserved

ALGORITHMS = frozenset({"EdDSA", "ES256", "RS256"})

# Entra lists up to 200 groups in a token, which is 12 KiB then.
_LONGEST_TOKEN = 16 * 1024
_LONGEST_SUBJECT = 255
_COMPACT_JWS = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_ORGANIZATION = re.compile(ORGANIZATION_PATTERN)
_SCOPES = {scope.value: scope for scope in Scope}
_REQUIRED = ["iss", "aud", "sub", "exp"]
_DEFAULT_NAMES = ClaimNames()
_REASONS: dict[type[jwt.PyJWTError], str] = {
    jwt.InvalidSignatureError: "bad_signature",
    jwt.InvalidIssuerError: "wrong_issuer",
    jwt.InvalidAudienceError: "wrong_audience",
    jwt.MissingRequiredClaimError: "claim_missing",
    jwt.exceptions.InvalidSubjectError: "bad_claim",
    jwt.exceptions.InvalidJTIError: "bad_claim",
}
# Reasons for which there was no token to verify.
_WITHOUT_TOKEN = frozenset({"missing", "not_bearer"})


class KeySource(Protocol):
    """The source of verifying keys: the embedded issuer, or an identity provider's JWKS."""

    @property
    def generation(self) -> int | None:
        """Changes whenever the set of trusted keys changes, and never returns to an earlier value.

        It is read on every request, so it must be cheap. None: the key set must be refreshed. The next `key_for` does
        that, and until then no cached verification is valid.
        """
        ...

    async def key_for(self, kid: str | None, algorithm: str) -> VerifyingKey | None:
        """The trusted key with this id and algorithm. Without an id: the only key with this algorithm, if there is one.

        Raises:
            IdentityProviderUnavailable: no key set is available.
        """
        ...


class TokenRefused(Unauthenticated):
    """The token is missing or does not verify. `reason` is a constant and appears only in logs."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason
        self.has_token = reason not in _WITHOUT_TOKEN


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verified:
    principal: Principal
    generation: int | None  # None: valid only for this request
    not_before: float
    expires_at: float


class Authenticator:
    """Verifies bearer tokens. A token that was verified before costs only a hash and a cache lookup.

    Args:
        keys: the trusted keys.
        issuer: the required `iss` of a token.
        audience: must be the token's `aud`, or one of its values.
        claim_names: where a token has its organization and scopes.
        clock_skew_seconds: the tolerated difference between the issuer's clock and this one.
        cache_size: number of verified tokens in the cache; the least recently used one is evicted first.
        cache_size_per_organization: how many of them belong to one organization. Verifying a token again takes 0.2 ms,
            which an organization with very many tokens must not impose on the others. The organization's least recently
            used one is evicted first. The tokens of internal services have no such limit.
        clock: returns seconds since the epoch.
    """

    def __init__(
        self,
        keys: KeySource,
        *,
        issuer: str,
        audience: str,
        claim_names: ClaimNames = _DEFAULT_NAMES,
        clock_skew_seconds: int = 30,
        cache_size: int = 4096,
        cache_size_per_organization: int = 512,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._claim_names = claim_names
        self._skew = clock_skew_seconds
        self._cache_size = cache_size
        self._clock = clock
        self._cache_size_per_organization = cache_size_per_organization
        self._cache: OrderedDict[bytes, _Verified] = OrderedDict()
        # The cached tokens of each organization. The first one is the least recently used.
        self._digests: dict[str, OrderedDict[bytes, None]] = {}

    async def authenticate(self, authorization: str | None) -> Principal:
        """Verify the Authorization header and return its principal.

        Raises:
            TokenRefused: clients learn only whether there was a token; `reason` is for logs.
            IdentityProviderUnavailable: the token cannot be verified now and may be valid.
        """
        token = _bearer(authorization)
        digest = hashlib.sha256(token.encode()).digest()
        verified = self._cache.get(digest)
        if verified is None or verified.generation != self._keys.generation:
            self._evict(digest)
            verified = await self._verify(token)
            if verified.generation is not None:
                self._cache_verified(digest, verified)
        else:
            self._cache.move_to_end(digest)
            self._digests[verified.principal.organization_id].move_to_end(digest)
        self._require_valid_now(verified)
        return verified.principal

    def _cache_verified(self, digest: bytes, verified: _Verified) -> None:
        self._evict(digest)  # a concurrent request may have verified the same token
        self._cache[digest] = verified
        principal = verified.principal
        digests = self._digests.setdefault(principal.organization_id, OrderedDict())
        digests[digest] = None
        # All internal services have the same organization, `*`.
        if len(digests) > self._cache_size_per_organization and not principal.is_service:
            self._evict(next(iter(digests)))
        elif len(self._cache) > self._cache_size:
            self._evict(next(iter(self._cache)))

    def _evict(self, digest: bytes) -> None:
        evicted = self._cache.pop(digest, None)
        if evicted is None:
            return
        organization_id = evicted.principal.organization_id
        digests = self._digests[organization_id]
        del digests[digest]
        if not digests:
            del self._digests[organization_id]

    def _require_valid_now(self, verified: _Verified) -> None:
        """Check the times on every use, because cached tokens expire too."""
        now = self._clock()
        if now >= verified.expires_at + self._skew:
            raise TokenRefused("expired")
        if now < verified.not_before - self._skew:
            raise TokenRefused("not_yet_valid")

    async def _verify(self, token: str) -> _Verified:
        kid, algorithm = _header(token)
        key = await self._keys.key_for(kid, algorithm)
        # Nothing is awaited after `key_for`, so this is the generation of the set that contained the key.
        generation = self._keys.generation
        if key is None:
            raise TokenRefused("unknown_key")
        if algorithm_of(key) != algorithm:
            raise TokenRefused("algorithm_refused")
        claims = self._claims(token, key, algorithm)
        return _Verified(
            principal=_principal(claims, self._claim_names),
            generation=generation,
            not_before=_instant(claims["nbf"]) if "nbf" in claims else -math.inf,
            expires_at=_instant(claims["exp"]),
        )

    def _claims(self, token: str, key: VerifyingKey, algorithm: str) -> dict[str, Any]:
        try:
            return jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                issuer=self._issuer,
                audience=self._audience,
                # `_require_valid_now` checks the times, on every use.
                options={"require": _REQUIRED, "verify_exp": False, "verify_nbf": False, "verify_iat": False},
            )
        except jwt.PyJWTError as error:
            reason = _REASONS.get(type(error), "malformed")
        raise TokenRefused(reason)  # outside the handler: a chained error could quote the token


def _bearer(authorization: str | None) -> str:
    if not authorization:
        raise TokenRefused("missing")
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise TokenRefused("not_bearer")
    if len(token) > _LONGEST_TOKEN:
        raise TokenRefused("too_long")
    if not token.isascii():
        raise TokenRefused("malformed")
    return token


def _header(token: str) -> tuple[str | None, str]:
    """The key id and the algorithm that an unverified token claims."""
    if not _COMPACT_JWS.fullmatch(token):
        raise TokenRefused("malformed")
    try:
        header = jwt.get_unverified_header(token)
    except jwt.PyJWTError:
        header = None
    if header is None:
        raise TokenRefused("malformed")
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise TokenRefused("algorithm_refused")
    # A token with critical extensions must be rejected unless all are understood, and none is (RFC 7515, 4.1.11).
    if "crit" in header:
        raise TokenRefused("critical_extension")
    return header.get("kid"), algorithm


def _principal(claims: dict[str, Any], names: ClaimNames) -> Principal:
    subject = claims["sub"]
    organization_id, scopes = _granted(claims, names)
    if not 1 <= len(subject) <= _LONGEST_SUBJECT or not subject.isprintable():
        raise TokenRefused("bad_claim")
    if organization_id != ANY_ORGANIZATION and not _ORGANIZATION.fullmatch(organization_id):
        raise TokenRefused("bad_claim")
    if is_reserved(organization_id):
        raise TokenRefused("reserved_organization")
    if looks_like_key(subject) or looks_like_key(organization_id):
        raise TokenRefused("looks_like_key")  # both are stored, logged and shown
    known = frozenset(_SCOPES[name] for name in scopes if name in _SCOPES)
    return Principal(
        subject=subject,
        organization_id=organization_id,
        scopes=known,
        relay=relay_restrictions_of(claims),
        expires_at=expiry_of(_instant(claims["exp"])),
    )


def _granted(claims: dict[str, Any], names: ClaimNames) -> tuple[str, frozenset[str]]:
    try:
        scopes = names.scopes_of(claims)
        return names.organization_of(claims, scopes), scopes
    except ClaimInvalid as error:
        reason = error.reason
    raise TokenRefused(reason)  # outside the handler, as in `_claims`


def _instant(value: object) -> float:
    """A NumericDate (RFC 7519) in seconds. Python's JSON parser also accepts NaN and Infinity, which are not dates."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TokenRefused("bad_claim")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds):
        raise TokenRefused("bad_claim")
    return seconds
