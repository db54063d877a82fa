"""Bearer token → Principal. Whoever signs, the rules are these; where keys come from is the KeySource's business."""

import hashlib
import math
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import jwt

from app.auth.principal import Principal, Scope
from app.auth.signing_keys import VerifyingKey, algorithm_of
from app.core.errors import Unauthenticated
from app.core.organizations import ANY_ORGANIZATION, ORGANIZATION_PATTERN

ALGORITHMS = frozenset({"EdDSA", "ES256", "RS256"})

_LONGEST_TOKEN = 8 * 1024
_LONGEST_SUBJECT = 255
_COMPACT_JWS = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_ORGANIZATION = re.compile(ORGANIZATION_PATTERN)
_SCOPES = {scope.value: scope for scope in Scope}
_REQUIRED = ["iss", "aud", "sub", "exp", "org", "scope"]
_REASONS: dict[type[jwt.PyJWTError], str] = {
    jwt.InvalidSignatureError: "bad_signature",
    jwt.InvalidIssuerError: "wrong_issuer",
    jwt.InvalidAudienceError: "wrong_audience",
    jwt.MissingRequiredClaimError: "claim_missing",
    jwt.exceptions.InvalidSubjectError: "bad_claim",
    jwt.exceptions.InvalidJTIError: "bad_claim",
}


class KeySource(Protocol):
    """Where verifying keys come from: the embedded issuer, or an identity provider's JWKS."""

    @property
    def generation(self) -> int | None:
        """Changes whenever the set of trusted keys does, and never takes an old value again.

        Read on every request, so it costs next to nothing. None says that the set must be looked at
        anew: the next `key_for` does so, and until then no earlier verification counts.
        """
        ...

    async def key_for(self, kid: str | None, algorithm: str) -> VerifyingKey | None:
        """The trusted key of that name and algorithm; without a name, the only one of the algorithm.

        Raises:
            IdentityProviderUnavailable: there is no set of keys to judge by.
        """
        ...


class TokenRefused(Unauthenticated):
    """No token, or one that does not verify. `reason` is one of our constants, for logs alone."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verified:
    principal: Principal
    generation: int | None  # None: good for this one use
    not_before: float
    expires_at: float


class Authenticator:
    """Verifies bearer tokens. One verified before costs a hash and a look into the cache.

    Args:
        keys: whom we trust.
        issuer: the `iss` that a token must carry.
        audience: must be, or be among, the token's `aud`.
        clock_skew_seconds: how far the issuer's clock may be from ours.
        cache_size: verified tokens remembered; the least recently used goes first.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        keys: KeySource,
        *,
        issuer: str,
        audience: str,
        clock_skew_seconds: int = 30,
        cache_size: int = 4096,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._skew = clock_skew_seconds
        self._cache_size = cache_size
        self._clock = clock
        self._cache: OrderedDict[bytes, _Verified] = OrderedDict()

    async def authenticate(self, authorization: str | None) -> Principal:
        """Who sends this Authorization header. Several such headers must arrive joined by a comma.

        Raises:
            Unauthenticated: always with the same text; `TokenRefused.reason` says more to logs.
            IdentityProviderUnavailable: the token may be good, and we cannot tell.
        """
        token = _bearer(authorization)
        digest = hashlib.sha256(token.encode()).digest()
        verified = self._cache.get(digest)
        if verified is None or verified.generation != self._keys.generation:
            self._cache.pop(digest, None)
            verified = await self._verify(token)
            if verified.generation is not None:
                self._remember(digest, verified)
        else:
            self._cache.move_to_end(digest)
        self._refuse_outside(verified)
        return verified.principal

    def _remember(self, digest: bytes, verified: _Verified) -> None:
        self._cache[digest] = verified
        self._cache.move_to_end(digest)
        while len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)

    def _refuse_outside(self, verified: _Verified) -> None:
        """On every use: a token in the cache ages too."""
        now = self._clock()
        if now >= verified.expires_at + self._skew:
            raise TokenRefused("expired")
        if now < verified.not_before - self._skew:
            raise TokenRefused("not_yet_valid")

    async def _verify(self, token: str) -> _Verified:
        kid, algorithm = _header(token)
        key = await self._keys.key_for(kid, algorithm)
        # No await since: this is the generation of the very set that the key was found in.
        generation = self._keys.generation
        if key is None:
            raise TokenRefused("unknown_key")
        if algorithm_of(key) != algorithm:
            raise TokenRefused("algorithm_refused")
        claims = self._claims(token, key, algorithm)
        return _Verified(
            principal=_principal(claims),
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
                # Times are judged on every use, in one place: `_refuse_outside`.
                options={"require": _REQUIRED, "verify_exp": False, "verify_nbf": False, "verify_iat": False},
            )
        except jwt.PyJWTError as error:
            reason = _REASONS.get(type(error), "malformed")
        raise TokenRefused(reason)  # outside the handler: an error in its context could quote the token


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
    """The key's name and the algorithm that an unverified token claims."""
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
    # We know no extension, and who marks one critical wants it understood (RFC 7515, 4.1.11).
    if "crit" in header:
        raise TokenRefused("critical_extension")
    return header.get("kid"), algorithm


def _principal(claims: dict[str, Any]) -> Principal:
    subject, organization_id, scope = claims["sub"], claims["org"], claims["scope"]
    if not 1 <= len(subject) <= _LONGEST_SUBJECT or not subject.isprintable():
        raise TokenRefused("bad_claim")
    if not isinstance(organization_id, str) or not (
        organization_id == ANY_ORGANIZATION or _ORGANIZATION.fullmatch(organization_id)
    ):
        raise TokenRefused("bad_claim")
    if not isinstance(scope, str):
        raise TokenRefused("bad_claim")
    scopes = frozenset(_SCOPES[word] for word in scope.split(" ") if word in _SCOPES)
    return Principal(subject=subject, organization_id=organization_id, scopes=scopes)


def _instant(value: object) -> float:
    """RFC 7519's NumericDate. Python's JSON reads NaN and Infinity too, which no date is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TokenRefused("bad_claim")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds):
        raise TokenRefused("bad_claim")
    return seconds
