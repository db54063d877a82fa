"""Sign-in for development: a code that `byok page` prints is exchanged once for a token.

The embedded development key signs both. A code may be part of a URL, which browsers keep, because it works only
once and for a minute. Used codes are files next to the key, so that all processes that know the key see them.
"""

import time
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import jwt

from app.auth.principal import ROLES
from app.auth.signing_keys import EmbeddedIssuer
from app.core.clock import new_id, now
from app.core.errors import SignInRefused
from app.core.private_file import PrivateFileRefused, create_private_file

CODE_AUDIENCE = "byok-page"
CODE_LIFETIME = timedelta(seconds=60)

_USED_CODES = Path("auth") / "used-codes"
_REQUIRED = ["iss", "aud", "sub", "exp", "jti", "org", "role", "ttl"]


def issue_code(
    issuer: EmbeddedIssuer, *, subject: str, organization_id: str, role: str, ttl: timedelta
) -> str:
    """A code for one sign-in. `ttl` is the lifetime of the token that it is exchanged for."""
    issued_at = int(now().timestamp())
    return issuer.sign(
        {
            "iss": issuer.issuer,
            "aud": CODE_AUDIENCE,
            "sub": subject,
            "iat": issued_at,
            "exp": issued_at + int(CODE_LIFETIME.total_seconds()),
            "jti": str(new_id()),
            "org": organization_id,
            "role": role,
            "ttl": int(ttl.total_seconds()),
        }
    )


class SignIn:
    """Exchanges codes for tokens. Only exists with the embedded development key."""

    def __init__(self, issuer: EmbeddedIssuer, data_dir: Path) -> None:
        self._issuer = issuer
        self._used_codes = data_dir / _USED_CODES

    def redeem(self, code: str) -> str:
        """Exchange a code for a token.

        Raises:
            SignInRefused: the code is invalid, expired or used.
        """
        claims = self._verify(code)
        if claims is None or claims["role"] not in ROLES or not self._use(claims["jti"]):
            raise SignInRefused
        return self._issuer.issue(
            subject=claims["sub"],
            organization_id=claims["org"],
            scopes=ROLES[claims["role"]],
            ttl=timedelta(seconds=claims["ttl"]),
        )

    def _verify(self, code: str) -> dict[str, Any] | None:
        try:
            return jwt.decode(
                code,
                self._issuer.public_key,
                algorithms=["EdDSA"],
                issuer=self._issuer.issuer,
                audience=CODE_AUDIENCE,
                options={"require": _REQUIRED},
            )
        except jwt.PyJWTError:
            return None

    def _use(self, code_id: str) -> bool:
        """Mark a code as used; False if it was already. Exactly one process creates the file."""
        try:
            is_first = create_private_file(self._used_codes / str(UUID(code_id)), b"")
        except (PrivateFileRefused, ValueError):
            return False
        self._forget_expired()
        return is_first

    def _forget_expired(self) -> None:
        oldest = time.time() - 2 * CODE_LIFETIME.total_seconds()
        for path in self._used_codes.iterdir():
            try:
                if path.stat().st_mtime < oldest:
                    path.unlink()
            except FileNotFoundError:
                continue
