"""The caller of a request and the scopes of its token."""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from app.core.errors import InsufficientScope, NotFound, ServiceOnly
from app.core.keys.key_lookalike import looks_like_key
from app.core.organizations import ANY_ORGANIZATION, is_reserved


class Scope(StrEnum):
    """The scopes that a token may carry."""

    CREDENTIALS_READ = "credentials:read"
    CREDENTIALS_WRITE = "credentials:write"
    USAGE_READ = "usage:read"
    USAGE_WRITE = "usage:write"
    BILLING_READ = "billing:read"
    BILLING_WRITE = "billing:write"
    LEASES_CREATE = "leases:create"
    RELAY_MESSAGES = "relay:messages"
    AUDIT_READ = "audit:read"


# The actor of audit events and validations that background work causes.
SYSTEM_ACTOR = "system"
# These scopes have an effect only in tokens of internal services.
SERVICE_SCOPES = frozenset({Scope.LEASES_CREATE, Scope.USAGE_WRITE})

_READS = frozenset(scope for scope in Scope if scope.endswith(":read"))
ROLES: dict[str, frozenset[Scope]] = {
    "billing-viewer": _READS,
    "billing-admin": _READS | {Scope.CREDENTIALS_WRITE, Scope.BILLING_WRITE},
    "service": frozenset(Scope) - {Scope.CREDENTIALS_WRITE, Scope.BILLING_WRITE, Scope.RELAY_MESSAGES},
}


# For callers without a token, and for tokens that expire after the last year that Python knows.
_NEVER = datetime.max.replace(tzinfo=UTC)


def expiry_of(seconds: float) -> datetime:
    """The time of an `exp` claim, in seconds since 1970."""
    try:
        return datetime.fromtimestamp(seconds, tz=UTC)
    except (OverflowError, OSError, ValueError):
        return _NEVER


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayRestrictions:
    """What a token may use the relay for. `None`: anything.

    `models` has identities of models. `endpoint_id` is the only endpoint that its usage is recorded for.
    """

    models: frozenset[str] | None = None
    endpoint_id: str | None = None


UNRESTRICTED = RelayRestrictions()


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """The identity and scopes of a verified token. `organization_id` is `*` for internal services."""

    subject: str
    organization_id: str
    scopes: frozenset[str]
    relay: RelayRestrictions = UNRESTRICTED
    expires_at: datetime = _NEVER

    @property
    def is_service(self) -> bool:
        return self.organization_id == ANY_ORGANIZATION

    def require(self, scope: Scope, *, organization_id: str, service_only: bool = False) -> None:
        """Raise unless the token allows `scope` on that organization.

        The organization is checked before the scope: every path of another organization is a NotFound, so a token
        reveals nothing about other organizations. Reserved organizations are only for internal services. A text that looks
        like a key is not an organization for anyone: ids are stored and logged.

        Raises:
            NotFound, ServiceOnly, InsufficientScope
        """
        if not self.is_service and (self.organization_id != organization_id or is_reserved(organization_id)):
            raise NotFound
        if looks_like_key(organization_id):
            raise NotFound
        if service_only and not self.is_service:
            raise ServiceOnly
        if scope not in self.scopes or (scope in SERVICE_SCOPES and not self.is_service):
            raise InsufficientScope(scope)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls a use case, for which organization, in which request. `request_id` is empty outside requests."""

    subject: str
    organization_id: str
    request_id: str

    @classmethod
    def system(cls, organization_id: str) -> "Caller":
        """The caller of background work for an organization."""
        return cls(subject=SYSTEM_ACTOR, organization_id=organization_id, request_id="")
